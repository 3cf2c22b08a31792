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

Work = Callable[[int], None]


def run_workers(count: int, work: Work, log: Log) -> None:
    """Run ``work`` in so many processes, by their numbers, until a signal says stop: it is passed on."""
    workers = _Workers(work, log)
    for each in _SIGNALS:
        signal.signal(each, workers.pass_on)
    for number in range(1, count + 1):
        workers.start(number)
    workers.wait()


class _Workers:
    def __init__(self, work: Work, log: Log) -> None:
        self._work = work
        self._log = log
        self._born: dict[int, tuple[int, float]] = {}
        self._stopping = False

    def pass_on(self, number: int, _frame: object) -> None:
        """Tell every worker what the parent was told."""
        self._stopping = True
        for pid in list(self._born):
            _tell(pid, number)

    def start(self, number: int) -> None:
        """Start the worker of this number."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # what comes now waits until the worker is known
        pid = os.fork()
        if pid == 0:
            _run(self._work, number)
        self._born[pid] = number, time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._log.info(Event.WORKER_STARTED, worker=number, pid=pid)

    def wait(self) -> None:
        """Wait until every worker has stopped; one that dies by itself is started again."""
        while self._born:
            pid, status = os.wait()
            number, began = self._born.pop(pid)
            if self._stopping:
                continue
            self._log.error(Event.WORKER_DIED, worker=number, status=os.waitstatus_to_exitcode(status))
            if time.monotonic() - began < _AGAIN_S:
                time.sleep(_AGAIN_S)
            if not self._stopping:
                self.start(number)


def _run(work: Work, number: int) -> NoReturn:
    status = 1
    try:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work(number)
        status = 0
    finally:
        os._exit(status)


def _tell(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
