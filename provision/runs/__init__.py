"""What is remembered of runs, and who may work on a host."""
