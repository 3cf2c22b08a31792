"""``/``: what this is, and where to go from here."""

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from service.api.pages.rendering import Pages


def front_routes(pages: Pages) -> list[HTTPRouteHandler]:
    """Build the handler of the front page."""

    @get("/", include_in_schema=False)
    async def front() -> Response[bytes]:
        """Show the front page."""
        return await pages.reply("front.html")

    return [front]
