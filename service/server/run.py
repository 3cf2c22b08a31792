"""Runs the ASGI apps under uvicorn, on sockets that are taken before anything is said about them.

SIGTERM makes readiness false and goes on answering for ``drain_ms``, so that a load balancer can
look away; then requests in flight finish. SIGINT skips the wait; a second signal gives up on what is
still in flight.
"""

import asyncio
import contextlib
import errno
import gc
import math
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
import uvloop
from litestar.types import ASGIApp

from service.api.ops import Readiness
from service.server.http_protocol import Protocol, SharedState
from service.telemetry import Event, Log, where

_KEEP_ALIVE_S = 75  # longer than a load balancer's, so that it is the one to close
_BACKLOG = 2048
_TICKS_PER_S = 10  # of uvicorn's main loop
_DESCRIPTORS_OF_OURS = 256  # for calls to Dub, the database, files
_CONNECTIONS_MAX = 20_000
_CONNECTIONS_FEW = 10_000  # fewer are worth a warning
_GC_THRESHOLDS = (50_000, 20, 100)  # at the defaults, collecting costs a tenth of a miss


class PortTaken(Exception):
    """Somebody listens there already, or it may not be used."""


@dataclass(frozen=True, slots=True)
class Served:
    """An app on its sockets, and how long its requests in flight may take to finish at a stop, in seconds.

    ``unread`` is called for each 400 that the app does not see: what cannot be read as HTTP.
    """

    app: ASGIApp
    socks: list[socket.socket]
    stop_s: float
    unread: Callable[[], None] = lambda: None


class _Server(uvicorn.Server):
    def __init__(self, served: Served, connections_max: int) -> None:
        super().__init__(_config(served.app, served.stop_s))
        self.server_state = SharedState(connections_max, served.unread)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``run``, which stops several servers in order."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Once a second, end requests that are late in arriving."""
        if counter % _TICKS_PER_S == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.give_up_waiting(now)
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Take a port before anything is said about it; ``::`` is every IPv4 and IPv6 address.

    Raises ``PortTaken``.
    """
    both_families = ":" in host and socket.has_dualstack_ipv6()
    if host == "::" and not both_families:
        host = "0.0.0.0"  # noqa: S104  "::" is every address, also where the kernel has no IPv6
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=both_families,
        )
    except OSError as exc:
        raise PortTaken(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc


def run(
    served: list[Served],
    *,
    readiness: Readiness,
    log: Log,
    drain_s: float,
) -> None:
    """Serve each app on its sockets until a signal says stop. The first listed stops first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(served, readiness, log, drain_s))


def connections_max(log: Log) -> int:
    """Raise the limit of file descriptors, and return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS_MAX + _DESCRIPTORS_OF_OURS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS_MAX
    most = min(_CONNECTIONS_MAX, max(soft - _DESCRIPTORS_OF_OURS, soft // 2))
    if most < _CONNECTIONS_FEW:
        log.warning(Event.FEW_DESCRIPTORS, descriptors=soft, connections_max=most)
    return most


def _report_to(log: Log) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return an exception handler for the loop: running out of file descriptors is named."""

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            log.error(Event.NO_DESCRIPTORS, error=type(exc).__name__)
        else:
            log.error(Event.LOOP_FAILED, error=type(exc).__name__, where=where(exc) if exc else None)

    return report


async def _serve(served: list[Served], readiness: Readiness, log: Log, drain_s: float) -> None:
    most = connections_max(log)
    servers = [_Server(each, most) for each in served]
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            for server in servers:
                server.force_exit = True
        if stop.is_set() or number is signal.SIGINT:
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report_to(log))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    tasks = [
        asyncio.create_task(server.serve(sockets=each.socks))
        for server, each in zip(servers, served, strict=True)
    ]
    _settle_memory()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    readiness.stopping = True
    log.info(Event.STOPPING)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), drain_s)
    for server, task in zip(servers, tasks, strict=True):
        server.should_exit = True
        await task
    stopping.cancel()


def _settle_memory() -> None:
    """Tell the garbage collector that what was built at boot stays, and that requests leave few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _config(app: ASGIApp, stop_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(stop_s),
    )
