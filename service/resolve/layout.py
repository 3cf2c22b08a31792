"""From a decided open to the answer that leaves: routes are laid on per report, because builds differ."""

from msgspec import structs

from service.resolve.model import Answer, App, Link, Open, Source
from service.resolve.routing import Route
from service.telemetry import Event, Log, where


def lay_out(
    app: App, opened: Open, app_version: str | None, *, source: Source, repeat: bool, log: Log
) -> Answer:
    """Route an open for the build that asks. Never raises: our own mistakes land on the default screen."""
    try:
        route = app.router.route(opened.destination, opened.carried, app_version)
    except Exception as exc:  # noqa: BLE001  a route always: the default screen, and the log names our mistake
        whose = {"app": app.name, "open_id": opened.open_id}
        log.error(Event.OPEN_FAILED, error=type(exc).__name__, where=where(exc), **whose)
        route = app.router.nowhere
    return Answer(
        open_id=opened.open_id,
        click_id=opened.click_id,
        link=_safe_link(app, opened, route),
        route=route,
        match=opened.match,
        source=source,
        pending=opened.pending,
        repeat=repeat,
    )


def _safe_link(app: App, opened: Open, route: Route) -> Link | None:
    """Blank a destination that must not be handed out (``javascript:``, say)."""
    link = opened.link
    if link is None or (route if opened.url is None else app.router.route(link.url)).url is not None:
        return link
    return structs.replace(link, url=None)
