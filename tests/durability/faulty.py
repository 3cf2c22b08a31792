"""A TCP proxy in front of Dub that goes wrong in one way, at one point, until it is told to stop.

What can go wrong: a fault that is over before it is met (a connection from before is reused), a port that
somebody else takes meanwhile, a stall that outlives its test. So arming a fault ends every connection, the
port stays taken while nobody listens, and clearing ends what stalls. It accepts by itself: asyncio's own
server breaks over a connection that comes while it closes.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Point = Literal["before connect", "before headers", "mid-body"]
How = Literal["refuse", "reset", "stall", "trickle", "end", "untrusted", "plain text", "answer"]

TRICKLE_S = 0.05  # between two bytes
_LINGER_NOT = struct.pack("ii", 1, 0)  # close with a reset
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Fault:
    """How a call goes wrong, and where; ``handled``: only after Dub has done its work.

    ``answer`` makes up a status, headers and a body in the place of Dub's.
    """

    name: str
    point: Point
    how: How = "answer"
    handled: bool = False
    answer: Callable[[bytes], tuple[int, str, bytes]] | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.point}{', handled' if self.handled else ''}"

    @property
    def needs_tls(self) -> bool:
        return self.name.startswith("TLS")


@dataclass
class Faulty:
    """The proxy, on a port of its own. With ``good`` and ``bad`` it speaks TLS: trusted, or not.

    ``spared`` says of a request's body that it passes whatever the fault; ``met`` counts calls (or
    connections) that went wrong.
    """

    upstream: int
    good: ssl.SSLContext | None = None
    bad: ssl.SSLContext | None = None
    spared: Callable[[dict[str, object]], bool] = lambda _: False
    port: int = 0
    met: int = 0
    _fault: Fault | None = None
    _listener: socket.socket | None = None
    _idle: list[socket.socket] = field(default_factory=list)
    _calls: dict[socket.socket, asyncio.Task[None]] = field(default_factory=dict)
    _cleared: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self._listen(self.good)

    async def stop(self) -> None:
        self._stop_listening()
        await self._end()
        self._drop_idle()

    async def arm(self, fault: Fault) -> None:
        """Go wrong from now on."""
        self._fault = fault
        self._cleared.clear()
        hangs = fault.point == "before connect" and fault.how == "stall" and not fault.needs_tls
        if fault.how == "refuse" or hangs:
            waiting = self._hold()
            if hangs:
                waiting.listen(0)
            self._stop_listening()
            if hangs:
                self._fill_the_queue()
        elif fault.needs_tls:
            self._stop_listening()
            self._listen(self.bad if fault.how == "untrusted" else None)
        await self._end()

    async def clear(self) -> None:
        """Be well again; what stalls ends."""
        self._fault = None
        self._cleared.set()
        self._stop_listening()
        self._listen(self.good)
        self._drop_idle()
        await self._end()

    def _socket(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", self.port))
        sock.settimeout(0)
        self.port = sock.getsockname()[1]
        return sock

    def _listen(self, tls: ssl.SSLContext | None) -> None:
        self._listener = self._socket()
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener, tls)

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        with contextlib.suppress(BlockingIOError):
            accepted, _ = listener.accept()
            accepted.settimeout(0)
            self._calls[accepted] = asyncio.create_task(self._serve(accepted, tls))

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _hold(self) -> socket.socket:
        """Keep the port while nobody listens: who connects is refused."""
        self._idle.append(self._socket())
        return self._idle[-1]

    def _fill_the_queue(self) -> None:
        """Take the places of a listener that accepts nobody: the next connection never comes about."""
        for _ in range(3):
            caller = socket.socket()
            caller.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                caller.connect(("127.0.0.1", self.port))
            self._idle.append(caller)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _end(self) -> None:
        """End every connection, also one whose task has not begun yet."""
        ending, self._calls = self._calls, {}
        for call in ending.values():
            call.cancel()
        await asyncio.gather(*ending.values(), return_exceptions=True)
        for accepted in ending:
            accepted.close()

    async def _serve(self, accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=tls)
        except OSError:
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        with contextlib.suppress(OSError, EOFError):
            try:
                if await self._welcomes(writer):
                    await self._exchange(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    async def _welcomes(self, writer: asyncio.StreamWriter) -> bool:
        """Go wrong before anything is asked, if that is the fault."""
        fault = self._fault
        if fault is None or fault.point != "before connect":
            return True
        self.met += 1
        if fault.how == "reset":
            _reset(writer)
        elif fault.how == "stall":
            await self._cleared.wait()
        elif fault.how == "plain text":
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        return False

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request and answer it, well or not; the connection ends with it."""
        head = await reader.readuntil(_HEAD_END)
        body = await reader.readexactly(_length(head))
        fault = self._fault
        if fault is None or self.spared(json.loads(body)):
            writer.write(await self._ask(head, body))
            await writer.drain()
            return
        self.met += 1
        reply = await self._ask(head, body) if fault.handled else b""
        await self._go_wrong(fault, writer, reply, body)

    async def _go_wrong(self, fault: Fault, writer: asyncio.StreamWriter, reply: bytes, asked: bytes) -> None:
        if fault.answer is not None:
            status, headers, body = fault.answer(asked)
            framing = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(f"HTTP/1.1 {status} Made Up\r\n{headers}{framing}".encode() + body)
            await writer.drain()
            return
        end = reply.find(_HEAD_END) + len(_HEAD_END)
        sent = reply[: end + (len(reply) - end) // 2] if fault.point == "mid-body" else b""
        writer.write(sent)
        await writer.drain()
        if fault.how == "reset":
            await asyncio.sleep(0.01 if sent else 0)  # a reset would take what is not read yet with it
            _reset(writer)
        elif fault.how == "stall":
            await self._cleared.wait()
        elif fault.how == "trickle":
            await self._trickle(writer, reply[len(sent) :])
        elif fault.how == "end":
            writer.write_eof()

    async def _trickle(self, writer: asyncio.StreamWriter, rest: bytes) -> None:
        for at in range(len(rest)):
            if self._cleared.is_set():
                return
            writer.write(rest[at : at + 1])
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cleared.wait(), TRICKLE_S)

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """Let Dub do its work, and return its whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            return await reader.read(-1)
        finally:
            writer.close()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
