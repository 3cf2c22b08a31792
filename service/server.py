"""Runs the ASGI apps under uvicorn: sockets first, then a word to the person, then requests.

SIGTERM makes readiness false and goes on answering for ``drain_ms``, so that a load balancer can
look away; then requests in flight finish. SIGINT skips the wait; a second signal ends it at once.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Iterator

import uvicorn
import uvloop
from litestar import Litestar
from msgspec import json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.api.ops import Readiness
from service.api.problems import problem
from service.settings import ServerSettings
from service.telemetry import Event, Log

HEAD_MAX_BYTES = 64 * 1024

_KEEP_ALIVE_S = 75  # longer than a load balancer's, so that it is the one to close
_BACKLOG = 2048
_GC_THRESHOLDS = (
    50_000,
    20,
    100,
)  # requests leave few cycles; at the defaults, looking for them costs a tenth of a miss


class PortTaken(Exception):
    """Somebody listens there already, or it may not be used."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a bound on request heads, and its 400 in the house's error shape."""

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; a head that does not end within its bound is refused."""
        super().data_received(data)
        if self._head_bytes >= 0 and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.send_400_response(f"headers: must be at most {HEAD_MAX_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Start to count a head."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stop counting: what follows is a body, which the app bounds."""
        self._head_bytes = -1
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as HTTP, and close."""
        body = json.encode(problem(400, msg))
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to ``serve``, which stops several servers in order."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """Take a port before anything is said about it; raises ``PortTaken``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise PortTaken(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc


def run(
    served: list[tuple[Litestar, socket.socket]],
    *,
    readiness: Readiness,
    log: Log,
    stop: ServerSettings,
) -> None:
    """Serve each app on its socket until a signal says stop. The first listed stops first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(served, readiness, log, stop))


async def _serve(
    served: list[tuple[Litestar, socket.socket]], readiness: Readiness, log: Log, settings: ServerSettings
) -> None:
    servers = [(_Server(_config(app, settings.stop_ms / 1000)), sock) for app, sock in served]
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set() or number is signal.SIGINT:
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in reversed(servers)]
    gc.collect()
    gc.freeze()  # what was built at boot stays: no need to look at it again
    gc.set_threshold(*_GC_THRESHOLDS)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    readiness.stopping = True
    log.info(Event.STOPPING)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), settings.drain_ms / 1000)
    for (server, _), task in zip(servers, reversed(tasks), strict=True):
        server.should_exit = True
        await task
    stopping.cancel()


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
        timeout_graceful_shutdown=max(1, round(stop_s)),
    )
