"""Ollama as an engine.

Sources: paths of the API, docs/facts.md#ollama-api; paths that show or change too much, docs/facts.md#nginx-paths;
variables, docs/facts.md#ollama-variables.
"""

from provision.steps.instance.engine import CardsLog, Engine, Loading, Variables
from provision.steps.ollama import (
    driver,
    environment,
    model_lists,
    native,
    readiness,
    scripts,
    served,
    server_state,
    stream_proof,
)

OLLAMA = Engine(
    name="ollama",
    title="Ollama",
    probe=server_state.PROBE,
    variables=Variables(
        prefixes=("OLLAMA_", "LLAMA_ARG_", "CUDA_"),
        of_image={"OLLAMA_HOST": "0.0.0.0:11434"},
        complaint=environment.complaint,
    ),
    start_timeout=120,
    boot_timeout=300,
    cards_log=CardsLog(line="inference compute", key="library", wanted="CUDA"),
    loading=Loading(functions=scripts.LOADING, models=scripts.BOOT),
    # Paths for clients; the rest pulls, deletes, or shows memory. The `ollama` program asks for / before anything else.
    client_paths=(
        "/",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/generate",
        "/api/show",
        "/api/version",
    ),
    open_paths=("/", "/api/version"),
    refused=(
        "POST /api/pull",
        "POST /api/push",
        "POST /api/create",
        "POST /api/copy",
        "DELETE /api/delete",
        "POST /api/blobs/sha256:0",
        "GET /api/me",
        "GET /debug/pprof/",
        "POST /v1/../api/pull",
        "POST /v1/%2e%2e/api/pull",
        "POST //api/pull",
    ),
    lists={"/api/ps": model_lists.running, "/api/tags": model_lists.tags, "/v1/models": model_lists.openai},
    own_paths="/api/",
    canonical=server_state.canonical,
    spellings=model_lists.spellings,
    unusable=driver.unusable,
    readiness=readiness.command,
    stream=stream_proof.stream,
    native=native.fact,
    speed=readiness.speed,
    served=served.read,
)
