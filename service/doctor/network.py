"""HTTP for the checks: one request at a time, through the proxy of the environment, never redirected.

What can go wrong: a check hangs on a server that never answers (every request has a limit), or downloads
without end (bodies are cut off).
"""

from collections.abc import Mapping

import httpx
from msgspec import Struct

TIMEOUT_S = 10.0
BODY_MAX_BYTES = 1024 * 1024


class Fetched(Struct, frozen=True):
    """An answer, or why there is none."""

    status: int = 0
    headers: Mapping[str, str] = {}
    body: bytes = b""
    problem: str = ""

    @property
    def is_redirect(self) -> bool:
        """Return True if the answer leads elsewhere."""
        return httpx.codes.is_redirect(self.status)


def client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """Return a client; ``transport`` replaces the network in tests."""
    return httpx.AsyncClient(transport=transport, timeout=TIMEOUT_S, follow_redirects=False)


async def fetch(
    http: httpx.AsyncClient,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Fetched:
    """Send a GET, or a POST if there is a body. Never raises: problems are part of the result."""
    try:
        async with http.stream(
            "GET" if body is None else "POST", url, headers=dict(headers or {}), content=body
        ) as reply:
            received = b""
            async for part in reply.aiter_bytes():
                received += part
                if len(received) > BODY_MAX_BYTES:
                    return Fetched(problem=f"the answer is larger than {BODY_MAX_BYTES:,} bytes")
            return Fetched(reply.status_code, dict(reply.headers), received)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return Fetched(problem=_described(exc))


def _described(exc: Exception) -> str:
    names: dict[type[Exception], str] = {
        httpx.ConnectTimeout: f"no connection within {TIMEOUT_S:.0f} s",
        httpx.ReadTimeout: f"no answer within {TIMEOUT_S:.0f} s",
        httpx.RemoteProtocolError: "the connection was closed without an answer",
        httpx.ReadError: "the connection was reset",
    }
    return names.get(type(exc)) or str(exc) or type(exc).__name__
