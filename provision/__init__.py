"""Turns bare GPU servers into a private, verified LLM endpoint over SSH."""
