"""Several processes on one socket: each an app of its own, which share what they know through Valkey.

What can go wrong: a worker dies (another one takes its place, but not in a tight loop); the parent is told to
stop while it starts one (the worker hears of it, too).
"""

import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from service.telemetry import Event, Log

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 1.0  # a worker that lived shorter than this is started again only after it


def run_workers(count: int, work: Callable[[], None], log: Log) -> None:
    """Run ``work`` in ``count`` processes until a signal says stop, and pass every signal on to them."""
    born: dict[int, float] = {}
    stopping: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        stopping.append(number)
        for pid in list(born):
            _tell(pid, number)

    for number in _SIGNALS:
        signal.signal(number, pass_on)
    for _ in range(count):
        _start(work, born)
    while born:
        pid, status = os.wait()
        lived_s = time.monotonic() - born.pop(pid, 0)
        if stopping:
            continue
        log.error(Event.WORKER_DIED, status=os.waitstatus_to_exitcode(status))
        if lived_s < _AGAIN_S:
            time.sleep(_AGAIN_S)
        if not stopping:
            _start(work, born)


def _start(work: Callable[[], None], born: dict[int, float]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # what comes now waits until the worker is known
    pid = os.fork()
    if pid == 0:
        _work(work)
    born[pid] = time.monotonic()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _work(work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work()
        status = 0
    finally:
        os._exit(status)


def _tell(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
