"""A model server in a container, of any engine."""
