"""Across hosts: waves, disruption budget, traffic, recovery."""
