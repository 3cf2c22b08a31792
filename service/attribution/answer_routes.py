"""From a decided open to the answer that leaves: routes are laid on per report, because builds differ."""

from itertools import accumulate

from msgspec import UNSET, structs

from service.attribution.delayed_matching import AFTER_S
from service.domain.models import Answer, App, Link, Open, Source
from service.domain.routing import Route
from service.telemetry import Event, Log, where

_AGAIN_S = 2.0  # for Dub to answer, or to come back
_LOOK_TAKES_S = 0.5


def build_answer(
    app: App, opened: Open, app_version: str | None, *, source: Source, repeat: bool, now: float, log: Log
) -> Answer:
    """Route an open for the build that asks at ``now``, in Unix seconds.

    Never raises: our own mistakes land on the default screen.
    """
    try:
        route = app.router.route(opened.destination, opened.carried, app_version)
    except Exception as exc:  # noqa: BLE001  a route always: the default screen, and the log names our mistake
        subject = {"app": app.name, "open_id": opened.open_id}
        log.error(Event.OPEN_FAILED, error=type(exc).__name__, where=where(exc), **subject)
        route = app.router.nowhere
    return Answer(
        open_id=opened.open_id,
        click_id=opened.click_id,
        link=_safe_link(app, opened, route),
        route=route,
        match=opened.match,
        source=source,
        pending=opened.pending,
        retry_after_ms=_retry_after_ms(opened, now) if opened.pending else UNSET,
        repeat=repeat,
    )


def _retry_after_ms(opened: Open, now: float) -> int:
    """Return when it is worthwhile to ask for a pending answer again: after the next look, or soon."""
    after_s = _AGAIN_S
    if opened.looking:
        looks_s = (look_s + _LOOK_TAKES_S - (now - opened.opened_at) for look_s in accumulate(AFTER_S))
        after_s = next((left_s for left_s in looks_s if left_s > 0), _AGAIN_S)
    return max(round(after_s * 1000), 1)


def _safe_link(app: App, opened: Open, route: Route) -> Link | None:
    """Blank a destination that must not be handed out (``javascript:``, say)."""
    link = opened.link
    if link is None or (route if opened.url is None else app.router.route(link.url)).url is not None:
        return link
    return structs.replace(link, url=None)
