"""Static keys for LiteLLM (`custom_auth`), as its documentation shows. LiteLLM loads this file from its own folder."""

import json
from pathlib import Path

from fastapi import HTTPException, Request
from litellm.proxy._types import UserAPIKeyAuth

_KEYS: dict[str, int] = json.loads(Path(__file__).with_name("keys.json").read_text())


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Admit a known key, with its greatest number of requests at once.

    Args:
        request: the request.
        api_key: the key of the request.
    """
    if api_key not in _KEYS:
        raise HTTPException(401, "unknown key")
    return UserAPIKeyAuth(api_key=api_key, max_parallel_requests=_KEYS[api_key] or None)
