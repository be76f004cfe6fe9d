"""nginx: build, configuration, upstream."""
