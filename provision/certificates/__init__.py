"""Certificates of servers: chains and keys that an operator gives, and an authority of one's own on this machine."""
