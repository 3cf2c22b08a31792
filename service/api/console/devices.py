"""The pages of test devices: start a session, watch a phone's opens, and let it begin again."""

from collections.abc import Callable
from typing import Annotated

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter

from service.api.console.live import live_values
from service.api.console.sessions import PATH
from service.api.console.shell import ConsoleRequest, Shell
from service.api.pages.rendering import redirect
from service.attribution.device_sessions import DeviceSessions
from service.attribution.live_feed import LiveFeed
from service.domain.deep_links import DeepLink
from service.domain.device_sessions import session_name
from service.domain.errors import InvalidField, NotFound, TooManySessions
from service.domain.live_opens import LiveFilter
from service.domain.models import App
from service.domain.route_explanations import with_scheme

_DEVICES = f"{PATH}/devices"
_LINK_MAX_CHARS = 500  # the code of a longer text is hard to read from a screen

ParseLink = Callable[[str, tuple[str, ...]], DeepLink]
Name = Annotated[str, PathParameter()]


def devices_pages(
    shell: Shell, live: LiveFeed, sessions: DeviceSessions, parse_link: ParseLink
) -> list[HTTPRouteHandler]:
    """Build the handlers of the pages."""
    shell.add("Test devices", _DEVICES)

    async def listed(request: ConsoleRequest, problem: str = "", status: int = 200) -> Response[bytes]:
        found = await sessions.of_app(request.app_of_session)
        return await shell.page(request, "devices.html", status=status, sessions=found, problem=problem)

    @get(_DEVICES, before_request=shell.signed_in)
    async def devices(request: ConsoleRequest) -> Response[bytes]:
        """List the active sessions."""
        return await listed(request)

    @post(_DEVICES, status_code=303, before_request=shell.signed_in)
    async def start(request: ConsoleRequest) -> Response[bytes]:
        """Start a session, and show it."""
        try:
            session = await sessions.start(request.app_of_session)
        except TooManySessions as exc:
            return await listed(request, str(exc), status=429)
        return redirect(f"{_DEVICES}/{session.name}")

    @get(f"{_DEVICES}/{{name:str}}", before_request=shell.signed_in)
    async def device(request: ConsoleRequest, name: Name) -> Response[bytes]:
        """Show a session: its name to type or to scan, a link to scan, and the phone's opens."""
        app = request.app_of_session
        session = await sessions.named(app, _name(name))
        text = request.query_params.get("link", "").strip()
        link, problem = link_to_scan(app, text, parse_link) if text else (None, "")
        return await shell.page(
            request,
            "device.html",
            session=session,
            code=qr_code(session.name, f"The name {session.name}"),
            link=link,
            link_code=None if link is None else qr_code(link, "The link"),
            link_text=text,
            problem=problem,
            was_forgotten="forgotten" in request.query_params,
            **await live_values(live, request, LiveFilter(test_device=session.name)),
        )

    @post(f"{_DEVICES}/{{name:str}}/forget", status_code=303, before_request=shell.signed_in)
    async def forget(request: ConsoleRequest, name: Name) -> Response[bytes]:
        """Erase the session's installs, so that the next launch is a first launch."""
        await sessions.forget(request.app_of_session, _name(name))
        return redirect(f"{_DEVICES}/{_name(name)}?forgotten=yes")

    @post(f"{_DEVICES}/{{name:str}}/end", status_code=303, before_request=shell.signed_in)
    async def end(request: ConsoleRequest, name: Name) -> Response[bytes]:
        """Erase the session's installs, and end it."""
        await sessions.end(request.app_of_session, _name(name))
        return redirect(_DEVICES)

    return [devices, start, device, forget, end]


def link_to_scan(app: App, text: str, parse_link: ParseLink) -> tuple[str | None, str]:
    """Return the link for a phone to scan, or what is wrong with it."""
    if len(text) > _LINK_MAX_CHARS:
        return None, f"The link is too long: {_LINK_MAX_CHARS} characters at most."
    try:
        link = parse_link(with_scheme(text), app.domains)
    except InvalidField as exc:
        return None, f"This is not a link: {exc}."
    if link.domain not in app.domains:
        return None, f"The link is on none of the app's domains: {', '.join(app.domains)}."
    return link.href, ""


def qr_code(text: str, title: str) -> str:
    """Return a QR code as an SVG element."""
    import segno  # noqa: PLC0415  a process that shows no code starts without it

    code = segno.make(text, error="m", micro=False)
    return code.svg_inline(
        dark="#000", light="#fff", border=3, svgclass="qr", title=title, omitsize=True, lineclass=None
    )


def _name(text: str) -> str:
    """Return a session's name in canonical form; raises ``NotFound`` for other text."""
    name = session_name(text)
    if name is None:
        raise NotFound("This is not the name of a test session.")
    return name
