"""The proxy that one writes first: Litestar over one ``httpx.AsyncClient``.

Its pool keeps all of its 100 connections, as aiohttp's does: by default httpx closes all but 20, and
with 32 clients it would be its reconnecting that is measured. Nor does it log a line per request.
"""

import logging
import secrets
from typing import Any

import httpx
from litestar import Litestar, post
from litestar.params import JSONBody

from service.api.wire import OpenRequest
from service.domain.models import BY_DEEP_LINK, Answer, Link
from service.domain.routing import Route


def build(upstream: str) -> Litestar:
    """Build it."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    client = httpx.AsyncClient(base_url=upstream, limits=limits)

    @post("/v1/opens", status_code=200)
    async def report_open(data: JSONBody[OpenRequest]) -> Answer:
        """Ask upstream."""
        response = await client.post("/track/open", json={"deepLink": data.deep_link})
        response.raise_for_status()
        opened: dict[str, Any] = response.json()
        link = Link(**opened["link"])
        return Answer(
            gate=None,
            open_id=secrets.token_hex(16),
            click_id=opened["clickId"],
            link=link,
            route=Route("product", {"id": "123"}, link.url, "matched"),
            match=BY_DEEP_LINK,
            source="dub",
            pending=False,
            repeat=False,
        )

    return Litestar([report_open], on_shutdown=[client.aclose], openapi_config=None, logging_config=None)
