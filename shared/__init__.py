"""The words both rooms use, and the one record of an order's life."""
