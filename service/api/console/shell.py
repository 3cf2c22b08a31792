"""What every page of the console needs: the session, the checks of forms, the navigation, errors as pages."""

from collections.abc import Callable, Mapping
from html import escape
from typing import Any, cast
from urllib.parse import quote

from litestar import MediaType, Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException
from msgspec import Struct

from service.api.console.sessions import PATH, Session, Sessions, comes_from_elsewhere, no_cookie
from service.api.pages.assets import asset_url
from service.api.pages.rendering import SECURITY_HEADERS, Pages, redirect
from service.api.problems import STATUS_OF, Problems
from service.domain.device_identity import TrustedProxies
from service.domain.errors import CallerError, NotFound, StoreFailed
from service.domain.models import App
from service.domain.ports import RateLimiter

FORM_MAX_BYTES = 128 * 1024  # a dry run has a deep link of up to 32,000 characters, percent-encoded
TOKEN_FIELD = "token"  # noqa: S105  a field's name

_FIRST_PAGE = f"{PATH}/opens"
_LOGIN = f"{PATH}/login"
_NEXT_MAX_CHARS = 512


class ConsoleRequest(Request[Any, Any, Any]):
    """A request of a browser. ``browser`` is its session, set before the handler runs."""

    browser: Session

    @property
    def app_of_session(self) -> App:
        """Return the app whose server key this browser has logged in with."""
        app = self.browser.app
        assert app is not None  # noqa: S101  ensured by ``Shell.signed_in``
        return app

    @property
    def is_secure(self) -> bool:
        """Return True if the browser asked over https, perhaps through a proxy.

        A client that lies about it only harms itself: its own cookie is then sent over https only.
        """
        return self.scope["scheme"] == "https" or self.headers.get("x-forwarded-proto", "") == "https"

    async def fields(self) -> dict[str, str]:
        """Return the fields of a form; of a field that is sent twice, the last."""
        return {name: value for name, value in (await self.form()).multi_items() if isinstance(value, str)}


class Refused(CallerError):
    """A form that must not be acted on."""


class NavItem(Struct, frozen=True):
    """A page in the navigation."""

    name: str
    path: str


class Shell:
    """Checks requests before their handlers run, and renders pages with the navigation."""

    def __init__(
        self,
        pages: Pages,
        sessions: Sessions,
        attempts: RateLimiter,
        proxies: TrustedProxies,
        unix_time: Callable[[], float],
    ) -> None:
        self.pages = pages
        self.sessions = sessions
        self._attempts = attempts
        self._proxies = proxies
        self._unix_time = unix_time
        self._nav: list[NavItem] = []

    def __deepcopy__(self, memo: object) -> "Shell":
        """Return self: Litestar deep-copies handlers, whose hooks are bound to this object."""
        return self

    def add(self, name: str, path: str) -> None:
        """Add a page to the navigation."""
        self._nav.append(NavItem(name, path))

    # The next two methods are ``before_request`` hooks. If they return a response, the handler does not run.

    async def anybody(self, request: Request[Any, Any, Any]) -> Response[bytes] | None:
        """Find or begin a session; raises ``Refused`` for a form that is not one of ours."""
        asked = cast("ConsoleRequest", request)
        asked.browser = self.sessions.read(asked.cookies) or self.sessions.begin()
        await _check_form(asked)
        return None

    async def signed_in(self, request: Request[Any, Any, Any]) -> Response[bytes] | None:
        """Find the session; if there is none, send the browser to the login page.

        A browser that follows a link from another site does not send the cookie (SameSite=Strict). It is sent
        through a page of this server, which asks again.
        """
        asked = cast("ConsoleRequest", request)
        session = self.sessions.read(asked.cookies)
        if session is None or session.app is None:
            here = safe_next(asked.url.path + (f"?{asked.url.query}" if asked.url.query else ""))
            if asked.method != "GET":
                return redirect(_LOGIN)
            if asked.headers.get("sec-fetch-site") == "cross-site":
                return await self.pages.reply("console/again.html", here=here)
            return redirect(f"{_LOGIN}?next={quote(here, safe='/')}")
        asked.browser = session
        await _check_form(asked)
        return None

    async def count_attempt(self, request: ConsoleRequest) -> None:
        """Count an attempt to log in against its address; raises ``RateLimited``."""
        peer = request.scope["client"]
        forwarded_for = request.headers.get("x-forwarded-for", "")
        ip = self._proxies.client_ip(peer[0] if peer else None, forwarded_for)
        await self._attempts.rate_limit("", b"", by_address=True).check(ip or "::")

    async def page(
        self,
        request: ConsoleRequest,
        template: str,
        *,
        status: int = 200,
        cookies: tuple[Cookie, ...] = (),
        **values: Any,
    ) -> Response[bytes]:
        """Render a page of the console, with navigation and the session's form token."""
        session = request.browser
        return await self.pages.reply(
            f"console/{template}",
            status=status,
            cookies=cookies,
            app=session.app,
            token=session.token,
            nav=self._nav,
            here=request.url.path,
            now=self._unix_time(),
            **values,
        )

    def logged_in(self, request: ConsoleRequest, session: Session, to: str) -> Response[bytes]:
        """Send the browser to a page of the console, with its new session's cookie."""
        return redirect(safe_next(to), cookies=(self.sessions.cookie(session, secure=request.is_secure),))

    def logged_out(self, request: ConsoleRequest) -> Response[bytes]:
        """Send the browser to the login page, without its cookie."""
        return redirect(_LOGIN, cookies=(no_cookie(secure=request.is_secure),))


def safe_next(path: str) -> str:
    """Return the page to show after the login: one of the console's, never another site's."""
    inside = path.startswith(f"{PATH}/") and not path.startswith(_LOGIN) and len(path) <= _NEXT_MAX_CHARS
    return path if inside and path.isascii() and path.isprintable() and "\\" not in path else _FIRST_PAGE


class ErrorPages:
    """The exception handler of the console's routes: a page for people, made without templates."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def __deepcopy__(self, memo: object) -> "ErrorPages":
        """Return self: Litestar deep-copies handlers with what they refer to, such as a log."""
        return self

    def __call__(self, request: Request[Any, Any, Any], exc: Exception) -> Response[Any]:
        """Return a page that says what is wrong. Bugs are logged, as everywhere."""
        match exc:
            case Refused():
                status, message = 403, str(exc)
            case StoreFailed():
                status, message = 503, f"The database is not available: {exc}."
            case NotFound() | CallerError():
                status, message = STATUS_OF.get(type(exc), 400), str(exc)
            case HTTPException(status_code=status) if status < 500:  # noqa: PLR2004  a bug, below
                message = _OF_STATUS.get(status, "The request could not be read.")
            case _:
                status = self._problems(request, exc).status_code or 500
                message = "This did not work; the log of firstopen says why."
        page = error_page(status, message)
        return Response(page, status_code=status, media_type=MediaType.HTML, headers=SECURITY_HEADERS)


_OF_STATUS: Mapping[int, str] = {
    404: "There is no such page.",
    405: "This page does not accept that.",
    413: "The form is too large.",
}


def error_page(status: int, message: str) -> bytes:
    """Return a page with a message and a way back."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{status} · firstopen</title><link rel="stylesheet" href="{asset_url("style.css")}">'
        f'<main><h1>{status}</h1><p>{escape(message)}</p><p><a href="{PATH}">To the console</a></p></main>'
    ).encode()


async def _check_form(request: ConsoleRequest) -> None:
    """Raise ``Refused`` unless a form comes from a page of this session."""
    if request.method != "POST":
        return
    if comes_from_elsewhere(request.headers):
        raise Refused("This form was sent by another site.")
    if not request.browser.owns((await request.fields()).get(TOKEN_FIELD, "")):
        raise Refused("This form is too old, or not from this browser. Load the page again.")
