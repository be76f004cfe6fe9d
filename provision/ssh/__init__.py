"""The connection to a host, and everything that goes over it."""
