"""The output of a run: text, JSON and progress."""
