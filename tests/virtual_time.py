"""An event loop in which a run is the same every time: time stands still while anything is left to do."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Counts its own seconds, from 0, and jumps to the next timer when nothing else is left to do.

    What is meant for threads is done in the loop instead, in order and ``thread_turns`` turns after it was
    asked for: a turn runs once what is ready.
    """

    def __init__(self, thread_turns: int = 1) -> None:
        super().__init__(_Impatient(self._pass))
        self._now = 0.0
        self._thread_turns = thread_turns

    def time(self) -> float:
        """Return the virtual seconds."""
        return self._now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # noqa: ARG002  its result is awaited all the same
        """Call the function in the loop; as in a thread, giving up on it does not stop it."""

        async def call() -> T:
            for _ in range(self._thread_turns):
                await asyncio.sleep(0)
            return func(*args)

        return asyncio.shield(self.create_task(call()))

    def _pass(self, timeout_s: float | None) -> None:
        if timeout_s is None:
            raise RuntimeError("nothing is ready and no timer is set: this waits for ever")
        self._now += timeout_s


class _Impatient(selectors.SelectSelector):
    """Tells how long it would wait, and does not."""

    def __init__(self, passes: Callable[[float | None], None]) -> None:
        super().__init__()
        self._passes = passes

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now."""
        ready = super().select(0)
        if not ready and timeout != 0:
            self._passes(timeout)
        return ready


def run(work: Coroutine[Any, Any, T], *, thread_turns: int = 1) -> T:
    """Run until the work is done, in virtual time."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(thread_turns)) as runner:
        return runner.run(work)
