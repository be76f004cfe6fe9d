"""The fixed sequence: one module per role, in the order in which a host runs the roles."""

ORDER = ("mirrors", "proxy", "docker", "nvidia_toolkit", "ollama", "models", "nginx", "balancer", "keepalived")
