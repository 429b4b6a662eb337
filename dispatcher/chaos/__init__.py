"""Chaos: real processes, real deaths, and a carrier that counts. `ringonce chaos` runs it."""
