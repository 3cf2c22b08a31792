"""Run the ASGI apps under uvicorn, on sockets that already listen, until a signal stops them.

After SIGTERM, readiness is false and requests are still answered for ``drain_ms``, so that load balancers
can stop sending requests; then requests in flight finish. SIGINT skips that wait; a second signal aborts the
requests in flight.
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

_KEEP_ALIVE_S = 75  # longer than usual for load balancers, so that they close connections first
_BACKLOG = 2048
_TICKS_PER_S = 10  # of uvicorn's main loop
_RESERVED_DESCRIPTORS = 256  # for calls to Dub, the database, files
_CONNECTIONS_MAX = 20_000
_CONNECTIONS_FEW = 10_000  # below this, a warning is logged
_GC_THRESHOLDS = (50_000, 20, 100)  # with the defaults, garbage collection takes a tenth of a cache miss


class PortTaken(Exception):
    """The address is in use, or the process may not listen on it."""


@dataclass(frozen=True, slots=True)
class Served:
    """An app with its listening sockets.

    ``stop_s`` is how many seconds requests in flight may take to finish at a stop. ``unread`` is called for
    each 400 that is sent for a request that cannot be parsed as HTTP, which the app never sees.
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
        """Install no signal handlers: ``run`` has its own, which stop several servers in order."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Close late and idle connections once a second."""
        if counter % _TICKS_PER_S == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Protocol):
                    connection.give_up_waiting(now)
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; the host ``::`` means every IPv4 and IPv6 address.

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
    reload: Callable[[], None] | None = None,
) -> None:
    """Serve each app on its sockets until a signal stops them, in the order of the list.

    ``reload`` is called on SIGHUP; if it is None, SIGHUP ends the process, as always.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(served, readiness, log, drain_s, reload))


def connections_max(log: Log) -> int:
    """Raise the process's limit of file descriptors; return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS_MAX + _RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    if soft == resource.RLIM_INFINITY:
        return _CONNECTIONS_MAX
    most = min(_CONNECTIONS_MAX, max(soft - _RESERVED_DESCRIPTORS, soft // 2))
    if most < _CONNECTIONS_FEW:
        log.warning(Event.FEW_DESCRIPTORS, descriptors=soft, connections_max=most)
    return most


def _report_to(log: Log) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return the event loop's exception handler, which logs running out of file descriptors as such."""

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exc = context.get("exception")
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            log.error(Event.NO_DESCRIPTORS, error=type(exc).__name__)
        else:
            log.error(Event.LOOP_FAILED, error=type(exc).__name__, where=where(exc) if exc else None)

    return report


async def _serve(
    served: list[Served],
    readiness: Readiness,
    log: Log,
    drain_s: float,
    reload: Callable[[], None] | None,
) -> None:
    most = connections_max(log)
    servers = [_Server(each, most) for each in served]
    stop, skip_drain = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            for server in servers:
                server.force_exit = True
        if stop.is_set() or number is signal.SIGINT:
            skip_drain.set()
        stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report_to(log))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
    tasks = [
        asyncio.create_task(server.serve(sockets=each.socks))
        for server, each in zip(servers, served, strict=True)
    ]
    _configure_gc()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    readiness.stopping = True
    log.info(Event.STOPPING)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(skip_drain.wait(), drain_s)
    for server, task in zip(servers, tasks, strict=True):
        server.should_exit = True
        await task
    stopping.cancel()


def _configure_gc() -> None:
    """Exclude the objects built at startup from garbage collection, and collect less often.

    Requests leave few reference cycles behind.
    """
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
