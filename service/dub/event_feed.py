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
_AT_ONCE_MIN = 2  # calls in a second before any call is paced, however small the limit
_QUEUE_TIMEOUT_S = 10.0


class _Spent(Struct):
    """A workspace's calls in the last second, and when waiting apps may call, in monotonic seconds."""

    calls: deque[float] = field(default_factory=deque)
    scheduled: dict[str, float] = field(default_factory=dict)


class CallBudget:
    """Limits the calls per second of each workspace. ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: defaultdict[str, _Spent] = defaultdict(_Spent)

    def spend(self, workspace: str, per_s: int, *, sync_of: str | None = None) -> None:
        """Count one call; raises ``OverBudget`` with the seconds until the next one is allowed.

        ``sync_of`` names the app for which this call begins a sync. Such calls are paced: after half of a
        second's calls (at least 2), each is scheduled at an even interval after the one before. Otherwise
        the calls would be made at the beginning of the second, and later syncs would wait for its end. Other
        calls are not paced, and may be made before a scheduled one.
        """
        now, spent = self._clock(), self._spent[workspace]
        calls, scheduled = spent.calls, spent.scheduled
        while calls and calls[0] <= now - _WINDOW_S:
            calls.popleft()
        if sync_of is not None:
            start = scheduled.get(sync_of)
            if start is None:  # it is scheduled once, and keeps that time until its call is made
                start = scheduled[sync_of] = _next_start(spent, per_s, now)
            if now < start:
                raise OverBudget(start - now)
        if len(calls) >= per_s:
            raise OverBudget(calls[-per_s] + _WINDOW_S - now)
        calls.append(now)
        if sync_of is not None:
            del scheduled[sync_of]


def _next_start(spent: _Spent, per_s: int, now: float) -> float:
    """Return when the next sync may begin: now, or one interval after the last call, made or scheduled."""
    times = sorted([*spent.calls, *(start for start in spent.scheduled.values() if start > now)])
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

    async def page(self, app: App, query: str, *, begins_sync: bool = False) -> Page:
        """Return the page of a query, as soon as Dub has begun to answer.

        If it ``begins_sync``, the call is paced: see ``CallBudget.spend``.

        Raises ``NotConfigured``, ``OverBudget``, ``DubRefused`` or a ``DubUnavailable``.
        """
        if not app.dub_api_key:
            raise NotConfigured(f"apps.{app.name}.dub_api_key_env: no Dub API key is set for this app")
        key = (app.dub_api_key, query)
        known = self._pages.get(key)
        if known is None:
            sync_of = app.name if begins_sync else None
            self._budget.spend(app.dub_api_key, app.analytics_calls_per_s, sync_of=sync_of)
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
