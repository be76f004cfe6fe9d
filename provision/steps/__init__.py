"""The kinds of step, one file each. `base.py` says what a step is."""
