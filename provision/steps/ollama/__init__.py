"""What only Ollama does: models, loading, environment, readiness."""
