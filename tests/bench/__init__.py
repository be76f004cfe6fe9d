"""Benches: each measures by one command; nothing here is a test."""
