"""Build the answer of a decided open. The route is computed per report: it depends on the app version."""

from itertools import accumulate

from msgspec import UNSET, structs

from service.attribution.delayed_matching import AFTER_S
from service.domain.device_identity import Platform
from service.domain.models import Answer, App, Link, Open, Source
from service.domain.routing import Route
from service.telemetry import Event, Log, where

_RETRY_AFTER_S = 2.0  # time for Dub to answer or to recover
_ATTEMPT_TAKES_S = 0.5


def build_answer(
    app: App,
    opened: Open,
    build: tuple[Platform | None, str | None],
    *,
    source: Source,
    repeat: bool,
    now: float,
    log: Log,
) -> Answer:
    """Return the answer to an open for the build that reports it: its platform and version.

    ``now`` is in Unix seconds. Never raises: if routing fails because of a bug, the route is the default
    screen.
    """
    platform, app_version = build
    try:
        route = app.router.route(opened.destination, opened.carried, app_version)
    except Exception as exc:  # noqa: BLE001  every answer needs a route; the bug is logged
        subject = {"app": app.name, "open_id": opened.open_id}
        log.error(Event.OPEN_FAILED, error=type(exc).__name__, where=where(exc), **subject)
        route = app.router.nowhere
    return Answer(
        open_id=opened.open_id,
        click_id=opened.click_id,
        link=_safe_link(app, opened, route),
        route=route,
        match=opened.match,
        gate=None if app.gates is None else app.gates.gate(platform, app_version),
        source=source,
        pending=opened.pending,
        retry_after_ms=_retry_after_ms(opened, now) if opened.pending else UNSET,
        repeat=repeat,
    )


def _retry_after_ms(opened: Open, now: float) -> int:
    """Return after how many ms to ask for a pending answer again: after the next match attempt, else 2 s."""
    after_s = _RETRY_AFTER_S
    if opened.looking:
        attempts_s = (at_s + _ATTEMPT_TAKES_S - (now - opened.opened_at) for at_s in accumulate(AFTER_S))
        after_s = next((left_s for left_s in attempts_s if left_s > 0), _RETRY_AFTER_S)
    return max(round(after_s * 1000), 1)


def _safe_link(app: App, opened: Open, route: Route) -> Link | None:
    """Return the link, without its destination if clients must not get that (such as ``javascript:``)."""
    link = opened.link
    if link is None or (route if opened.url is None else app.router.route(link.url)).url is not None:
        return link
    return structs.replace(link, url=None)
