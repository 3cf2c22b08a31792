"""Opens that come when people come, not when the last one was answered: so many a second, evenly."""

import asyncio
import secrets
from urllib.parse import urlsplit

import uvloop
from msgspec import Struct

from tests.bench import sample
from tests.bench.processes import Failed

_QUEUE_TIMEOUT_S = 20
_SPARE = 1.5  # connections that are there before they are needed


class Arrivals(Struct, frozen=True):
    """Evenly spaced opens, each another install's, each with the same budget."""

    per_s: int
    seconds: int
    budget_ms: int


def latencies_ms(url: str, arrivals: Arrivals) -> tuple[list[float], int]:
    """Report the opens; return how long after its due time each was answered whole, and how many no 200."""
    return uvloop.run(_load(urlsplit(url).netloc, arrivals))


class _Load:
    def __init__(self, netloc: str, budget_ms: int) -> None:
        self.netloc = netloc
        self.budget_ms = budget_ms
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.run = secrets.token_hex(4)
        self.refused = 0

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.netloc.split(":")
        return await asyncio.open_connection(host, port)

    async def open(self, number: int, due: float) -> float:
        loop = asyncio.get_running_loop()
        request = sample.request(
            f"{self.run}-0000-4000-8000-{number:012x}", self.netloc, budget_ms=self.budget_ms
        )
        await asyncio.sleep(due - loop.time())
        connection = self.idle.pop() if self.idle else await self.connect()
        reader, writer = connection
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        took_s = loop.time() - due
        self.refused += not head.startswith(b"http/1.1 200 ")
        self.idle.append(connection)
        return took_s * 1000


async def _load(netloc: str, arrivals: Arrivals) -> tuple[list[float], int]:
    load = _Load(netloc, arrivals.budget_ms)
    spare = int(arrivals.per_s * arrivals.budget_ms / 1000 * _SPARE) + 1
    load.idle = list(await asyncio.gather(*(load.connect() for _ in range(spare))))
    begin = asyncio.get_running_loop().time() + 0.1
    opens = (
        load.open(number, begin + number / arrivals.per_s)
        for number in range(arrivals.per_s * arrivals.seconds)
    )
    try:
        async with asyncio.timeout(arrivals.seconds + _QUEUE_TIMEOUT_S):
            took_ms = await asyncio.gather(*opens)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as exc:
        raise Failed(f"an open was not answered: {type(exc).__name__}") from exc
    finally:
        for _, writer in load.idle:
            writer.close()
    return took_ms, load.refused
