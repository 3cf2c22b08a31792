"""Start test sessions, recognise the opens of test devices, and let a test begin again.

What can go wrong: somebody invents the name of a session, to leave the metrics or to get a click again (only
active sessions count, and they need a server key); many invented names are reported (they cost four queries
a second at most, and only their own opens wait); a session was started or ended on another replica (an
unknown name is looked up in the database, known ones are read again every five seconds); forgetting a test
device erases somebody else (only devices whose opens named the session are erased, each through the erasure
that ``POST /v1/installs/forget`` uses).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from service.aio.tasks import cancel_all
from service.attribution.erasure import ErasedCounts
from service.domain.device_sessions import SESSIONS_MAX, DeviceSession, new_session
from service.domain.errors import NotFound, StoreFailed, TooManySessions
from service.domain.models import Answer, App, OpenReport
from service.domain.ports import KeptSessions
from service.telemetry.background import Background

_FRESH_S = 5.0
_LOADS_EVERY_S = 0.25
_WAIT_MAX_S = 0.6  # of an open that names an unknown session: a pause of the above, and a query


class DeviceSessions:
    """The test sessions of all apps. ``erase`` deletes all data of devices, and may raise ``StoreFailed``.

    ``clock`` is monotonic, ``unix_time`` Unix time, both in seconds.
    """

    def __init__(
        self,
        kept: KeptSessions,
        erase: Callable[[Sequence[str]], Awaitable[ErasedCounts]],
        background: Background,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self._kept = kept
        self._erase = erase
        self._background = background
        self._clock = clock
        self._unix_time = unix_time
        self._expires_at: dict[tuple[str, str], float] = {}
        self._loaded_at = -_FRESH_S
        self._loading: asyncio.Task[None] | None = None

    async def start(self, app: App) -> DeviceSession:
        """Start a session; raises ``TooManySessions`` or ``StoreFailed``."""
        if len(await self.of_app(app)) >= SESSIONS_MAX:
            raise TooManySessions(f"{SESSIONS_MAX} test sessions are active: end one of them first")
        session = new_session(app.name, self._unix_time())
        await self._kept.add(session)
        self._expires_at[app.name, session.name] = session.expires_at
        return session

    async def of_app(self, app: App) -> list[DeviceSession]:
        """Return an app's active sessions, newest first; raises ``StoreFailed``."""
        return [each for each in await self._kept.active() if each.app == app.name]

    async def named(self, app: App, name: str) -> DeviceSession:
        """Return an active session of an app; raises ``NotFound`` or ``StoreFailed``."""
        found = next((each for each in await self.of_app(app) if each.name == name), None)
        if found is None:
            raise NotFound("testDevice: this app has no active test session of this name")
        return found

    async def forget(self, app: App, name: str) -> ErasedCounts:
        """Erase the installs of a session: their next launch is a first launch, and may get the same click.

        Other replicas know of it within a second. Raises ``NotFound`` or ``StoreFailed``.
        """
        await self.named(app, name)
        erased = await self._erase(await self._kept.devices(app.name, name))
        await self._kept.forget_repeats(app.name, name)
        return erased

    async def end(self, app: App, name: str) -> None:
        """Forget a session's installs, and end it; raises ``NotFound`` or ``StoreFailed``."""
        await self.forget(app, name)
        await self._kept.end(app.name, name)
        self._expires_at.pop((app.name, name), None)

    async def checked(self, report: OpenReport) -> OpenReport:
        """Return a report whose ``test_device`` is an active session's name, or None and ``ignored``."""
        name = report.test_device
        if name is None or await self._is_active((report.caller.app.name, name)):
            return report
        return structs.replace(report, test_device=None, ignored=(*report.ignored, "testDevice"))

    def answered(self, report: OpenReport, answer: Answer) -> None:
        """Record that an open of a test device was answered again, for the operator who watches it."""
        if answer.repeat and report.test_device is not None:
            self._kept.repeated(report.caller.app.name, report.test_device, answer.open_id)

    async def close(self) -> None:
        """Stop reading the sessions."""
        if self._loading is not None:
            await cancel_all([self._loading])

    async def _is_active(self, session: tuple[str, str]) -> bool:
        if session not in self._expires_at or self._clock() - self._loaded_at > _FRESH_S:
            if self._loading is None or self._loading.done():
                self._loading = self._background.spawn(self._load(), "test_sessions")
            await asyncio.wait([self._loading], timeout=_WAIT_MAX_S)
        return self._expires_at.get(session, 0) > self._unix_time()

    async def _load(self) -> None:
        """Read the sessions of all apps; keep what is known while the database fails."""
        await asyncio.sleep(max(self._loaded_at + _LOADS_EVERY_S - self._clock(), 0))
        with contextlib.suppress(StoreFailed):
            active = await self._kept.active()
            self._expires_at = {(each.app, each.name): each.expires_at for each in active}
        self._loaded_at = self._clock()
