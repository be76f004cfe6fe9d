"""Verification: plan's own read of every host, and then the proof of each step's purpose, by testinfra."""
