"""Benches: what is measured, by one command each; nothing here is a test."""
