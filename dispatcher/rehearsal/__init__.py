"""A stand-in call handler with a fake carrier that counts rings."""
