"""Start background tasks, and log and count their unexpected exceptions.

Every task of the service is started here or awaited by the code that starts it;
``tests/unit/test_architecture.py`` lists the latter. Python itself reports a failed task only when it is
garbage-collected, and without a name.
"""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from prometheus_client import Counter

from service.telemetry import Event, Log, where

T = TypeVar("T")


class Background:
    """Starts tasks. ``failures`` is a counter with the label ``task``."""

    def __init__(self, log: Log, failures: Counter) -> None:
        self._log = log
        self._failures = failures
        self._running: set[asyncio.Task[Any]] = set()  # the event loop keeps only weak references to tasks

    def spawn(
        self,
        work: Coroutine[Any, Any, T],
        name: str,
        *,
        expected: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> asyncio.Task[T]:
        """Start a task. Exceptions that are not ``expected`` are reported under this name.

        The caller must cancel or await the task before it closes what the task uses.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(partial(self._ended, name, expected))
        return task

    def report(self, exc: BaseException, name: str) -> None:
        """Log and count an exception of a background task."""
        self._failures.labels(name).inc()
        self._log.error(Event.BACKGROUND_FAILED, task=name, error=type(exc).__name__, where=where(exc))

    def _ended(
        self, name: str, expected: type[Exception] | tuple[type[Exception], ...], task: asyncio.Task[Any]
    ) -> None:
        self._running.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None and not isinstance(exc, expected):
            self.report(exc, name)
