"""What a run prints: text, JSON and progress."""
