"""Mount the console's pages. Nothing here is imported if ``[console] enabled`` is false."""

from collections.abc import Sequence

from litestar import Router
from litestar.handlers import HTTPRouteHandler

from service.api.console.login import login_pages
from service.api.console.shell import FORM_MAX_BYTES, ConsoleRequest, ErrorPages, Shell
from service.api.problems import Problems


def console_router(shell: Shell, problems: Problems, pages: Sequence[HTTPRouteHandler]) -> Router:
    """Return the router of the console: ``pages``, and those for logging in and out."""
    return Router(
        "/",
        route_handlers=[*login_pages(shell), *pages],
        request_class=ConsoleRequest,
        request_max_body_size=FORM_MAX_BYTES,
        exception_handlers={Exception: ErrorPages(problems)},
        include_in_schema=False,
    )
