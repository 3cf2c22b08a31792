"""Fetch pages of events from Dub, within a call budget, and share each page between concurrent callers.

A page is stored once, as the chunks in which it arrives; callers that ask for the same page while it arrives
read the same chunks.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable

from msgspec import Struct, field

from service.aio.tasks import cancel_all
from service.domain.errors import DubUnavailable, FirstopenError, NotConfigured, OverBudget
from service.domain.models import App
from service.domain.ports import CallBudget as SharedBudget
from service.domain.ports import EventProvider, EventStream
from service.telemetry.background import Background

PAGE_MAX_BYTES = 64 * 1024 * 1024
_WINDOW_S = 1.0
_AT_ONCE_MIN = 2  # calls in a second before any call is spread, however small the limit
_QUEUE_TIMEOUT_S = 10.0


class _Spent(Struct):
    """A workspace's calls in the last second, and the turns of waiting apps, in monotonic seconds."""

    calls: deque[float] = field(default_factory=deque)
    turns: dict[str, float] = field(default_factory=dict)


class CallBudget:
    """Limits the calls per second of each workspace. ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: defaultdict[str, _Spent] = defaultdict(_Spent)

    def spend(self, workspace: str, per_s: int, *, turn_of: str | None = None) -> None:
        """Count one call; raises ``OverBudget`` with the seconds until the next one is allowed.

        ``turn_of`` names the app whose sync this call begins. Once half of a second's calls are made (at
        least 2), such calls get turns at even intervals, so that later syncs do not wait for up to a second.
        A turn reserves no call: calls without turns may still take the last ones of a second.
        """
        now, spent = self._clock(), self._spent[workspace]
        calls, turns = spent.calls, spent.turns
        while calls and calls[0] <= now - _WINDOW_S:
            calls.popleft()
        if turn_of is not None:
            turn = turns.get(turn_of)
            if turn is None:  # an app keeps its turn until its call is made
                turn = turns[turn_of] = _next_turn(spent, per_s, now)
            if now < turn:
                raise OverBudget(turn - now)
        if len(calls) >= per_s:
            raise OverBudget(calls[-per_s] + _WINDOW_S - now)
        calls.append(now)
        if turn_of is not None:
            del turns[turn_of]


def _next_turn(spent: _Spent, per_s: int, now: float) -> float:
    """Return the time of the next turn: now, or one interval after the last call or turn."""
    times = sorted([*spent.calls, *(turn for turn in spent.turns.values() if turn > now)])
    if len(times) < max(per_s // 2, _AT_ONCE_MIN) or per_s <= _AT_ONCE_MIN:
        return now
    left = max(per_s - len(times), 0)
    interval_s = max(_WINDOW_S / per_s, (times[0] + _WINDOW_S - times[-1]) / (left + 1))
    return max(now, times[-1] + interval_s)


class Page:
    """A page that is being received."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: FirstopenError | None = None
        self._more = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the page from its beginning; raises ``DubUnavailable`` if it is incomplete."""
        at = 0
        while True:
            while at < len(self._chunks):
                yield self._chunks[at]
                at += 1
            if self._ended:
                break
            self._more.clear()
            await self._more.wait()
        if self._error is not None:
            raise self._error

    async def fill(self, stream: EventStream) -> None:
        """Receive the page; any failure also ends the iteration of its readers with an error."""
        self._error = DubUnavailable("a page of events cut short")
        try:
            async for chunk in stream:
                self._size += len(chunk)
                if self._size > PAGE_MAX_BYTES:
                    self._error = DubUnavailable(f"a page of events over {PAGE_MAX_BYTES} bytes")
                    return
                self._chunks.append(chunk)
                self._more.set()
            self._error = None
        except FirstopenError as exc:
            self._error = exc
        finally:
            self._ended = True
            self._more.set()
            await stream.aclose()


class EventFeed:
    """Fetches pages of events from Dub, one task per page."""

    def __init__(
        self,
        dub: EventProvider,
        budget: CallBudget,
        background: Background,
        shared: SharedBudget | None = None,
    ) -> None:
        self._dub = dub
        self._background = background
        self._budget = budget
        self._shared = shared
        self._pages: dict[tuple[str, str], tuple[Page, asyncio.Task[None]]] = {}

    async def page(self, app: App, query: str, *, takes_turn: bool = False) -> Page:
        """Return the page of a query, as soon as Dub has begun to answer.

        ``takes_turn``: the call is spread, see ``CallBudget.spend``.

        Raises ``NotConfigured``, ``OverBudget``, ``DubRefused`` or a ``DubUnavailable``.
        """
        if not app.dub_api_key:
            raise NotConfigured(f"apps.{app.name}.dub_api_key_env: no Dub API key is set for this app")
        key = (app.dub_api_key, query)
        known = self._pages.get(key)
        if known is None:
            turn_of = app.name if takes_turn else None
            self._budget.spend(app.dub_api_key, app.analytics_calls_per_s, turn_of=turn_of)
            page = Page()
            task = self._background.spawn(self._fetch(page, app, query), "events_page")
            task.add_done_callback(lambda _: self._pages.pop(key, None))
            self._pages[key] = (page, task)
        else:
            page = known[0]
        await asyncio.shield(page.opened)
        return page

    async def close(self) -> None:
        """Cancel the requests in flight."""
        await cancel_all([task for _, task in self._pages.values()])

    async def _fetch(self, page: Page, app: App, query: str) -> None:
        try:
            if self._shared is not None:
                await self._shared.spend(app.dub_api_key, app.analytics_calls_per_s)
            stream = await self._dub.events(app, query, queue_timeout_s=_QUEUE_TIMEOUT_S)
        except Exception as exc:  # noqa: BLE001  callers that wait for the page get it
            page.opened.set_exception(exc)
            page.opened.exception()  # marks it as retrieved, in case no caller waits any more
            return
        page.opened.set_result(None)
        await page.fill(stream)
