"""Jinja templates, one folder per role. `provision.render` finds them here, installed or not."""
