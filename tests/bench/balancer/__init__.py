"""The balancer against the guide's: the same load through both, and straight to the instances."""
