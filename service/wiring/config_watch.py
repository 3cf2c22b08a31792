"""Read the configuration again when its files change or an operator asks for it, and put it in force.

What can go wrong: a file is invalid (the settings before it stay in force; it is logged, counted and named by
readiness, which stays true); a file is read while it is being written (it is read when it has not changed
between two checks); a changed setting cannot be taken over (it keeps its value, and is named until the next
start); the file system hangs (files are read in a thread, and opens are answered).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from service.aio.tasks import cancel_all
from service.config.files import Loaded, State, take_over
from service.config.settings import SettingsError
from service.domain.health import ConfigStatus
from service.telemetry import Event, Log, Metrics
from service.telemetry.background import Background
from service.wiring.in_force import Compiled, InForce, compile_settings

CHECK_S = 0.5


class ConfigWatch:
    """Checks the files twice a second. ``unix_time`` is in seconds."""

    def __init__(
        self,
        loaded: Loaded,
        in_force: InForce,
        *,
        background: Background,
        unix_time: Callable[[], float],
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._files = loaded.files
        self._in_force = in_force
        self._background = background
        self._unix_time = unix_time
        self._log = log
        self._metrics = metrics
        self._asked = asyncio.Event()
        self._seen = self._read = loaded.state
        in_force.status = self._status = ConfigStatus(loaded.revision, unix_time())

    def ask(self) -> None:
        """Read the files at once."""
        self._asked.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check the files until the exit."""
        task = self._background.spawn(self._run(), "config_watch")
        try:
            yield
        finally:
            await cancel_all([task])

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    await self._asked.wait()
            try:
                await self._check()
            except Exception as exc:  # noqa: BLE001  reported, and the next change must be seen
                self._background.report(exc, "config_watch")

    async def _check(self) -> None:
        asked = self._asked.is_set()
        self._asked.clear()
        now, state = self._unix_time(), await asyncio.to_thread(self._files.state)
        if asked or state == self._seen != self._read:
            await self._reload(state)
        self._seen = state
        if self._read == state:
            self._status.checked_at = now

    async def _reload(self, state: State) -> None:
        status = self._status
        self._read = state
        try:
            revision, compiled, waiting = await asyncio.to_thread(self._compile)
        except SettingsError as exc:
            status.rejected = str(exc)
            self._metrics.config_reloads.labels("rejected").inc()
            self._log.error(Event.CONFIG_REJECTED, problem=str(exc))
        else:
            self._in_force.replace(compiled)
            if waiting and waiting != status.waiting_for_restart:
                self._log.warning(Event.CONFIG_NEEDS_RESTART, settings=waiting)
            status.revision, status.rejected, status.waiting_for_restart = revision, None, waiting
            self._metrics.config_reloads.labels("applied").inc()
            self._log.info(Event.CONFIG_RELOADED, revision=revision, apps=len(compiled.apps))
        self._metrics.config_rejected.set(status.rejected is not None)

    def _compile(self) -> tuple[str, Compiled, tuple[str, ...]]:
        """Return the revision, the settings to put in force, and the names of those that need a restart."""
        loaded = self._files.read()
        settings, waiting = take_over(self._in_force.now.settings, loaded.settings)
        return loaded.revision, compile_settings(settings), waiting
