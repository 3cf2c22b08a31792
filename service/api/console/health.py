"""The page about the service's health, with what the outbox has not delivered and what to do about it."""

from collections.abc import Callable

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from service.api.console.sessions import PATH
from service.api.console.shell import ConsoleRequest, Shell
from service.api.pages.rendering import redirect
from service.domain.calibration import Calibration
from service.domain.errors import InvalidField, NotFound, StoreFailed
from service.domain.learned_rates import TITLES, LearnedRate
from service.domain.models import App
from service.domain.open_explanations import MATCH_TYPES
from service.domain.outbox_entries import DISCARD_REASON_MAX_CHARS, KINDS, State, discard_reason
from service.domain.ports import KeptCalibration, OutboxDesk

LISTED_MAX = 50

_STATES: tuple[State, ...] = ("queued", "delivered", "dead", "discarded")
_PAGE = f"{PATH}/health"
_DONE = {
    "retried": "It is queued again, and is sent within a second.",
    "all": "All dead letters of this app are queued again.",
    "discarded": "It is discarded: its content is deleted, the reason stays.",
}


class BreakerHealth(Struct, frozen=True):
    """The circuit breaker of one of Dub's endpoints, and how many calls are in flight there."""

    endpoint: str
    state: str
    in_flight: int


class SyncHealth(Struct, frozen=True):
    """The sync of an app's clicks by this process. ``ago_s`` is None before the first."""

    ago_s: float | None
    problem: str | None


class Setting(Struct, frozen=True):
    """A setting in force. ``is_set`` if it is not the default."""

    name: str
    value: str
    is_set: bool


class Health(Struct, frozen=True, kw_only=True):
    """The health of one process, as far as an app is concerned."""

    problems: list[str]
    breakers: list[BreakerHealth]
    database: str
    database_problem: str | None
    rates: tuple[LearnedRate, ...]
    sync: SyncHealth | None  # None: matching by IP address is off
    opens: dict[str, int]  # answered by this process, by match type
    settings: dict[str, list[Setting]]  # by table


def health_pages(
    shell: Shell, outbox: OutboxDesk, kept: KeptCalibration, health: Callable[[App], Health]
) -> list[HTTPRouteHandler]:
    """Build the handlers of the page and of its forms."""
    shell.add("Health", _PAGE)

    @get(_PAGE, before_request=shell.signed_in)
    async def show(request: ConsoleRequest) -> Response[bytes]:
        """Show what works and what does not."""
        app = request.app_of_session
        failed = None
        depths, dead, queued = {}, [], []
        try:
            depths = dict(await outbox.app_depths(app.name))
            dead = await outbox.listed("dead", LISTED_MAX, app.name)
            queued = [
                each.explained(has_webhook=bool(app.webhook_events))
                for each in await outbox.listed("queued", LISTED_MAX, app.name)
            ]
        except StoreFailed as exc:  # the page must say so, not fail with it
            failed = str(exc)
        return await shell.page(
            request,
            "health.html",
            health=health(app),
            depths=depths,
            dead=dead,
            queued=queued,
            calibration=await _calibration(kept, app),
            outbox_failed=failed,
            kinds=KINDS,
            states=_STATES,
            reason_max=DISCARD_REASON_MAX_CHARS,
            match_types=MATCH_TYPES,
            rate_names=TITLES,
            done=_DONE.get(request.query_params.get("done", "")),
        )

    @post(f"{_PAGE}/retry", status_code=303, before_request=shell.signed_in)
    async def retry(request: ConsoleRequest) -> Response[bytes]:
        """Queue one dead letter of the app again, or all."""
        entry_id = (await request.fields()).get("entry", "")
        revived = await outbox.retry_now(entry_id or None, request.app_of_session.name)
        if entry_id and not revived:
            raise NotFound("This app has no such dead letter.")
        return redirect(f"{_PAGE}?done={'retried' if entry_id else 'all'}")

    @post(f"{_PAGE}/discard", status_code=303, before_request=shell.signed_in)
    async def discard(request: ConsoleRequest) -> Response[bytes]:
        """Give up one dead letter of the app, with a reason."""
        fields = await request.fields()
        reason = discard_reason(fields.get("reason", ""))
        if reason is None:
            expected = f"expected 1 to {DISCARD_REASON_MAX_CHARS} printable characters"
            raise InvalidField("reason", expected)
        if not await outbox.discard(fields.get("entry", ""), reason, request.app_of_session.name):
            raise NotFound("This app has no such dead letter.")
        return redirect(f"{_PAGE}?done=discarded")

    return [show, retry, discard]


async def _calibration(kept: KeptCalibration, app: App) -> Calibration | None:
    """Return how often the app's matching is right; None if it cannot be read."""
    try:
        return await kept.read(app.name)
    except StoreFailed:
        return None
