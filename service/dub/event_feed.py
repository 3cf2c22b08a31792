"""Fetch pages of events from Dub, within a call budget, and share each page between concurrent callers.

A page is stored once, as the chunks in which it arrives; callers that ask for the same page while it arrives
read the same chunks.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from service.aio.tasks import cancel_all
from service.domain.errors import DubUnavailable, FirstopenError, NotConfigured, OverBudget
from service.domain.models import App
from service.domain.ports import CallBudget as SharedBudget
from service.domain.ports import EventProvider, EventStream
from service.telemetry.background import Background

PAGE_MAX_BYTES = 64 * 1024 * 1024
_WINDOW_S = 1.0
_AT_ONCE = 2  # calls in a window before others are spread: opens that follow each other, or two pages
_QUEUE_TIMEOUT_S = 10.0


class CallBudget:
    """Limits the calls per second of each workspace. ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._spent: dict[str, deque[float]] = {}

    def spend(self, workspace: str, per_s: int, *, spread: bool = False) -> None:
        """Count one call; raises ``OverBudget`` with the seconds until the next one is allowed.

        With ``spread``, the calls that are left are spread over the rest of the window. Of many opens, each
        then waits for a sync as long as the next one; if all calls were made at once, those that come after
        them would wait for nearly a second.
        """
        now = self._clock()
        spent = self._spent.setdefault(workspace, deque())
        while spent and spent[0] <= now - _WINDOW_S:
            spent.popleft()
        left = per_s - len(spent)
        if left <= 0:
            raise OverBudget(spent[-per_s] + _WINDOW_S - now)
        if spread and len(spent) >= _AT_ONCE:
            next_at = spent[-1] + (spent[0] + _WINDOW_S - spent[-1]) / (left + 1)
            if now < next_at:
                raise OverBudget(next_at - now)
        spent.append(now)


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

    async def page(self, app: App, query: str, *, spread: bool = False) -> Page:
        """Return the page of a query, as soon as Dub has begun to answer; ``spread``: see ``CallBudget``.

        Raises ``NotConfigured``, ``OverBudget``, ``DubRefused`` or a ``DubUnavailable``.
        """
        if not app.dub_api_key:
            raise NotConfigured(f"apps.{app.name}.dub_api_key_env: no Dub API key is set for this app")
        key = (app.dub_api_key, query)
        known = self._pages.get(key)
        if known is None:
            self._budget.spend(app.dub_api_key, app.analytics_calls_per_s, spread=spread)
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
