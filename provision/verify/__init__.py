"""Verification: plan's own read of every host, then proofs by testinfra that each step serves its purpose."""
