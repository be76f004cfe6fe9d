"""The memory of runs, and the locks that say who may work on a host."""
