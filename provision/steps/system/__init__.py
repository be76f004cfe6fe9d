"""Files, packages, units, accounts and preflight checks of a host."""
