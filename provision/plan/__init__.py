"""From an inventory to steps, and from steps to ordered changes. Pure."""
