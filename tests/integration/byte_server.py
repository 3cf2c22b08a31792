"""A server of bytes, and a pool of connections to it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from service.dub.connections import ConnectionPool, Target, composed

REQUEST = composed(Target.of("http://127.0.0.1/track/open"), {"X-Who": "anna"}, b"{}")
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


def reply(body: bytes, *headers: bytes) -> bytes:
    return (
        HEAD + b"".join(each + b"\r\n" for each in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )


class Server:
    """Answers each request with the next of its replies, in these pieces; ``b""`` closes."""

    def __init__(self, *replies: list[bytes] | bytes) -> None:
        self.replies = [[each] if isinstance(each, bytes) else each for each in replies]
        self.requests = 0
        self.request_bytes = len(REQUEST)
        self.received: list[bytes] = []
        self.connections = 0
        self.ended = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError, RuntimeError):  # uvloop's
            while True:
                self.received.append(await reader.readexactly(self.request_bytes))
                pieces = self.replies[min(self.requests, len(self.replies) - 1)]
                self.requests += 1
                for piece in pieces:
                    if not piece:
                        writer.close()
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001 if len(pieces) > 1 else 0)
        self.ended += 1
        writer.close()


@asynccontextmanager
async def pool_over(
    server: Server, *, keepalive_s: float = 60.0, host: str = "127.0.0.1"
) -> AsyncIterator[ConnectionPool]:
    mishaps: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, mishap: mishaps.append(mishap))
    listening = await asyncio.start_server(server, host, 0)
    server.port = listening.sockets[0].getsockname()[1]
    pool = ConnectionPool(host, server.port, None, keepalive_s)
    try:
        yield pool
    finally:
        pool.close()
        listening.close()
        for writer in server.writers:
            writer.close()
    assert not mishaps


def nobody() -> None:
    pass


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110  the server has no event for each of these
            await asyncio.sleep(0.005)
