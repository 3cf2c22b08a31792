"""Runs the ASGI apps under uvicorn, on sockets that are taken before anything is said about them.

SIGTERM makes readiness false and goes on answering for ``drain_ms``, so that a load balancer can
look away; then requests in flight finish. SIGINT skips the wait; a second signal gives up on what is
still in flight.
"""

import asyncio
import contextlib
import gc
import math
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import uvicorn
import uvloop
from litestar import Litestar

from service.api.ops import Readiness
from service.protocol import Protocol
from service.telemetry import Event, Log

_KEEP_ALIVE_S = 75  # longer than a load balancer's, so that it is the one to close
_BACKLOG = 2048
_TICKS_PER_S = 10  # of uvicorn's main loop
_GC_THRESHOLDS = (50_000, 20, 100)  # at the defaults, collecting costs a tenth of a miss


class PortTaken(Exception):
    """Somebody listens there already, or it may not be used."""


class _Server(uvicorn.Server):
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
    """Take a port before anything is said about it; raises ``PortTaken``."""
    return _listen(host, port, is_shared=False)


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Take a port for so many processes, with a queue of connections each; raises ``PortTaken``.

    From one queue, whoever wakes first takes all that wait: a burst, or a proxy's connections, would be one
    process's. Linux shares them out over the queues.
    """
    listen(host, port).close()  # another service's, even if that shares its port
    return [_listen(host, port, is_shared=True) for _ in range(count)]


def _listen(host: str, port: int, *, is_shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=is_shared)
    except OSError as exc:
        raise PortTaken(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc


@dataclass(frozen=True, slots=True)
class Served:
    """An app on a socket, and how long its requests in flight may take to finish at a stop, in seconds."""

    app: Litestar
    sock: socket.socket
    stop_s: float


def run(
    served: list[Served],
    *,
    readiness: Readiness,
    log: Log,
    drain_s: float,
) -> None:
    """Serve each app on its socket until a signal says stop. The first listed stops first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(served, readiness, log, drain_s))


async def _serve(served: list[Served], readiness: Readiness, log: Log, drain_s: float) -> None:
    servers = [_Server(_config(each.app, each.stop_s)) for each in served]
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            for server in servers:
                server.force_exit = True
        if stop.is_set() or number is signal.SIGINT:
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    tasks = [
        asyncio.create_task(server.serve(sockets=[each.sock]))
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


def _config(app: Litestar, stop_s: float) -> uvicorn.Config:
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
