"""What is wrong with a host before anything is changed, and how to mend it: one exec a host, no lock, no change."""
