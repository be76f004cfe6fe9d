"""Instances rolled under load, and what clients notice."""
