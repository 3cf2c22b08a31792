"""A reverse proxy that knows its backends as one in a Kubernetes cluster does: late.

It asks each backend for ``/health/ready`` every so often, as kubelet does, and hears of a pod that is to
be deleted (``PUT /proxy/leaving``, a URL) or was made anew (``PUT /proxy/coming``); whatever it learns, it
acts on ``LAG_S`` later. Requests are passed on once, in turns; what a backend does not answer is a 502.
Run as ``python -m tests.bench.proxy PORT PERIOD_S FAILURES LAG_S URL...``.
"""

import asyncio
import sys
from collections import Counter
from typing import cast
from urllib.parse import urlsplit

import uvloop
from msgspec import Struct, json

_BAD = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_READY = b"GET /health/ready HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n"
_PROBE_WITHIN_S = 2.0


class Told(Struct):
    """``rotation`` are the backends that get requests; the rest are counts by backend."""

    rotation: list[str]
    answered: dict[str, int]
    failed: dict[str, int]


class Backend:
    """One of them, and the connections to it that nobody uses just now."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.is_ready = False
        self.is_leaving = False
        self.idle: list[Upstream] = []


class Proxy:
    """What all connections share."""

    def __init__(self, backends: list[Backend], *, period_s: float, failures: int, lag_s: float) -> None:
        self.backends = backends
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._rotation: list[Backend] = []
        self._period_s = period_s
        self._failures = failures
        self._lag_s = lag_s
        self._turn = 0

    def next(self) -> Backend | None:
        """Return whose turn it is."""
        self._turn += 1
        return self._rotation[self._turn % len(self._rotation)] if self._rotation else None

    def told(self) -> Told:
        """Say how it goes."""
        return Told([each.url for each in self._rotation], dict(self.answered), dict(self.failed))

    def leave(self, url: str, *, is_leaving: bool) -> None:
        """Hear that a backend is to be deleted, or was made anew."""
        for each in self.backends:
            if each.url == url:
                each.is_leaving = is_leaving
                each.is_ready = False
        self._learn()

    async def watch(self, backend: Backend) -> None:
        """Ask a backend whether it is ready, for ever."""
        failed = 0
        while True:
            ready = await _is_ready(backend)
            failed = 0 if ready else failed + 1
            is_ready = ready or (backend.is_ready and failed < self._failures)
            if is_ready != backend.is_ready:
                backend.is_ready = is_ready
                self._learn()
            await asyncio.sleep(self._period_s)

    def _learn(self) -> None:
        rotation = [each for each in self.backends if each.is_ready and not each.is_leaving]
        asyncio.get_running_loop().call_later(self._lag_s, setattr, self, "_rotation", rotation)


class Upstream(asyncio.Protocol):
    """A connection to a backend; one request at a time."""

    def __init__(self, proxy: Proxy, backend: Backend) -> None:
        self._proxy = proxy
        self._backend = backend
        self._received = b""
        self._door: Door | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes, door: "Door") -> None:
        """Pass a request on."""
        self._door = door
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        size = _whole(self._received)
        if size is None or self._door is None:
            return
        door, self._door = self._door, None
        reply, self._received = self._received, b""
        self._proxy.answered[self._backend.url] += 1
        if b"\r\nconnection: close" in reply[:size].lower():
            self._transport.close()
        else:
            self._backend.idle.append(self)
        door.answer(reply)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self in self._backend.idle:
            self._backend.idle.remove(self)
        if self._door is not None:
            self._proxy.failed[self._backend.url] += 1
            self._door.answer(_BAD)


class Door(asyncio.Protocol):
    """A connection from a client; one request at a time."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._received = b""
        self._transport: asyncio.Transport
        self._asking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if _whole(self._received) is None:
            return
        request, self._received = self._received, b""
        method, path, _ = request.split(b" ", 2)
        if path.startswith(b"/proxy/"):
            self._control(method, path, request)
            return
        backend = self._proxy.next()
        if backend is None:
            self._proxy.failed["no backend"] += 1
            self.answer(_BAD)
        elif backend.idle:
            backend.idle.pop().ask(request, self)
        else:
            self._asking = asyncio.create_task(self._ask_anew(backend, request))

    def answer(self, reply: bytes) -> None:
        """Pass an answer on."""
        if not self._transport.is_closing():
            self._transport.write(reply)

    async def _ask_anew(self, backend: Backend, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, upstream = await loop.create_connection(
                lambda: Upstream(self._proxy, backend), backend.host, backend.port
            )
        except OSError:
            self._proxy.failed[backend.url] += 1
            self.answer(_BAD)
        else:
            upstream.ask(request, self)

    def _control(self, method: bytes, path: bytes, request: bytes) -> None:
        if method == b"PUT":
            url = request.partition(b"\r\n\r\n")[2].decode()
            self._proxy.leave(url, is_leaving=path == b"/proxy/leaving")
        told = json.encode(self._proxy.told())
        self.answer(_REPLY % (len(told), told))


def _whole(message: bytes) -> int | None:
    """Return the size of a message's head once all of the message is there."""
    head, end, body = message.partition(b"\r\n\r\n")
    _, found, value = head.lower().partition(b"\r\ncontent-length:")
    length = int(value.partition(b"\r\n")[0]) if found else 0
    return len(head) if end and len(body) >= length else None


async def _is_ready(backend: Backend) -> bool:
    try:
        async with asyncio.timeout(_PROBE_WITHIN_S):
            reader, writer = await asyncio.open_connection(backend.host, backend.port)
            try:
                writer.write(_READY)
                return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def _serve(port: int, proxy: Proxy) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Door(proxy), "127.0.0.1", port, backlog=2048
    )
    async with server, asyncio.TaskGroup() as watching:
        for backend in proxy.backends:
            watching.create_task(proxy.watch(backend))


if __name__ == "__main__":
    _port, _period_s, _failures, _lag_s, *_urls = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _serve(
                int(_port),
                Proxy(
                    [Backend(url) for url in _urls],
                    period_s=float(_period_s),
                    failures=int(_failures),
                    lag_s=float(_lag_s),
                ),
            )
        )
