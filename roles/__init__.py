"""The fixed sequence: one module per role, in the order in which a host goes through them."""

ORDER = ("docker", "nvidia_toolkit", "ollama", "models", "nginx", "balancer")
