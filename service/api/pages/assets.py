"""Serve the pages' style sheet and scripts, from memory.

The scripts are htmx and its SSE extension, unchanged from their npm packages, with their licences beside
them; a test holds their hashes. A URL contains a hash of the content, so browsers may keep it for good.
"""

from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter
from msgspec import Struct

STATIC = Path(__file__).parent / "static"

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


class Asset(Struct, frozen=True):
    """A file, with its media type and the hash in its URL."""

    content: bytes
    media_type: str
    digest: str


@cache
def assets() -> dict[str, Asset]:
    """Read the files, by name."""
    found = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = blake2b(content, digest_size=6).hexdigest()
            found[path.name] = Asset(content, _TYPES[path.suffix], digest)
    return found


def asset_url(name: str) -> str:
    """Return the URL of a file, for templates."""
    return f"/assets/{assets()[name].digest}/{name}"


def asset_routes() -> list[HTTPRouteHandler]:
    """Build the handler of ``/assets``."""

    @get("/assets/{digest:str}/{name:str}", include_in_schema=False, cache_control=None)
    async def asset(
        digest: Annotated[str, PathParameter()], name: Annotated[str, PathParameter()]
    ) -> Response[bytes]:
        """Return a file, to be kept for a year if the URL names this version of it."""
        found = assets().get(name)
        if found is None:
            raise NotFoundException
        lasting = found.digest == digest
        return Response(
            found.content,
            media_type=found.media_type,
            headers={
                "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-store",
                "X-Content-Type-Options": "nosniff",
                "Cross-Origin-Resource-Policy": "same-origin",
            },
        )

    return [asset]
