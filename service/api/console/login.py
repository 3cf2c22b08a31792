"""The login page, logging out, and the console's first page."""

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from service.api.console.sessions import PATH
from service.api.console.shell import ConsoleRequest, Shell, safe_next
from service.api.pages.rendering import redirect
from service.domain.errors import RateLimited, WrongKey, WrongKind


def login_pages(shell: Shell) -> list[HTTPRouteHandler]:
    """Build the handlers that need no session."""

    async def form(
        request: ConsoleRequest, to: str, *, status: int = 200, problem: str = ""
    ) -> Response[bytes]:
        cookie = shell.sessions.cookie(request.browser, secure=request.is_secure)
        return await shell.page(
            request, "login.html", status=status, cookies=(cookie,), to=to, problem=problem
        )

    @get(PATH)
    async def first() -> Response[bytes]:
        """Send the browser to the first page."""
        return redirect(safe_next(""))

    @get(f"{PATH}/login", before_request=shell.anybody)
    async def show(request: ConsoleRequest) -> Response[bytes]:
        """Show the form; a browser that has logged in needs none."""
        to = safe_next(request.query_params.get("next", ""))
        return await form(request, to) if request.browser.app is None else redirect(to)

    @post(f"{PATH}/login", status_code=303, before_request=shell.anybody)
    async def log_in(request: ConsoleRequest) -> Response[bytes]:
        """Check the key, and set the cookie."""
        fields = await request.fields()
        to = safe_next(fields.get("next", ""))
        try:
            await shell.count_attempt(request)
            session = shell.sessions.log_in(fields.get("key", ""))
        except RateLimited:
            return await form(request, to, status=429, problem="Too many attempts. Wait a minute.")
        except WrongKind as exc:
            return await form(request, to, status=403, problem=str(exc))
        except WrongKey as exc:
            return await form(request, to, status=401, problem=str(exc))
        return shell.logged_in(request, session, to)

    @post(f"{PATH}/logout", status_code=303, before_request=shell.signed_in)
    async def log_out(request: ConsoleRequest) -> Response[bytes]:
        """Delete the cookie."""
        return shell.logged_out(request)

    return [first, show, log_in, log_out]
