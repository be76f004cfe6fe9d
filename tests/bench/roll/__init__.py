"""Instances rolled under load: what clients see of it."""
