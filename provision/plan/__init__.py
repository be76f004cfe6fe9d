"""An inventory becomes steps, and steps become changes in their order. Pure."""
