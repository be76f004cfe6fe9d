"""Everything peculiar to Ollama: models, loading, environment, readiness."""
