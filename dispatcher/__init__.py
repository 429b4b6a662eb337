"""The workshop: the only room that speaks to the call handler."""
