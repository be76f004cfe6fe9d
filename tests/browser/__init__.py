"""Tests that look at our pages in a real browser: `make test-browser`, a part of `make test-all`."""
