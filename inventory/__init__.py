"""Example inventories that `provision init` copies from."""
