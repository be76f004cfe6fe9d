"""A week of faults in an hour: real clients through the common address, and the availability by assumed numbers."""
