"""Running: a server that another process runs, and how an agent reaches it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from streamserve.errors import ConfigError, SetupError, one_line
from streamserve.workload.plan import Encode
from streamserve.workload.prompts import Message, Prompt

ADMIN_KEY, API_KEY = "STREAMSERVE_ADMIN_KEY", "STREAMSERVE_API_KEY"
"""Environment variables; a key in a setting ends up in what a run saves."""
CONNECT_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that runs, and how an agent takes part in it."""

    url: str
    admin_key: str | None
    api_key: str | None
    budget_s: float
    """How long a request may wait for the agent."""
    idle_limit_s: float
    decision_limit_s: float

    def headers(self, admin: bool) -> dict[str, str]:
        """With the key for what an admin may, or for what clients do."""
        key = self.admin_key or os.environ.get(ADMIN_KEY) if admin else self.api_key or os.environ.get(API_KEY)
        return {"Authorization": f"Bearer {key}"} if key else {}


def encoder(remote: Remote) -> Encode:
    """Prompts as the server's model reads them, each asked for once. Raises `SetupError`."""
    known: dict[tuple[Message, ...], Sequence[int]] = {}

    def encode(prompt: Prompt) -> Sequence[int]:
        if prompt.messages not in known:
            messages = [{"role": role, "content": text} for role, text in prompt.messages]
            known[prompt.messages] = _tokens(remote, {"messages": messages, "add_generation_prompt": True})
        return known[prompt.messages]

    return encode


def _tokens(remote: Remote, body: Mapping[str, Any]) -> Sequence[int]:
    try:
        response = httpx.post(
            f"{remote.url.rstrip('/')}/tokenize",
            json=body,
            headers=remote.headers(admin=False),
            timeout=CONNECT_LIMIT_S,
            trust_env=False,
        )
        tokens: list[int] = response.raise_for_status().json()["tokens"]
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise SetupError(
            f"{remote.url} does not tokenize prompts ({one_line(error)}); look whether it is up"
        ) from error
    return tokens


def address(url: str, wish: Mapping[str, Any]) -> str:
    """Of the WebSocket. Raises `ConfigError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"url must be a server's, e.g. http://127.0.0.1:8000; got {url!r}")
    scheme = "ws" if parts.scheme == "http" else "wss"
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/streamserve/agent?{urlencode(wish)}"
