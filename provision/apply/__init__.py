"""One host: read, plan, lock, change, read again."""
