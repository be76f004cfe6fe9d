"""Docker on a host: configuration, daemon, images, volumes, firewall."""
