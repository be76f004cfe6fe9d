"""The gateway against no proxy, plain nginx and LiteLLM: the same SIMULATED instances, the same load, on loopback."""
