"""Many phones' worth of impatience: one open, reported on 1,000 connections at once."""

import asyncio
import secrets
from collections import Counter
from urllib.parse import urlsplit

import msgspec
import uvloop

from tests.bench import sample
from tests.bench.lab import Lab, complaints
from tests.bench.processes import Failed
from tests.bench.table import Row

REPORTS = 1000
DELAY_MS = 300

_WITHIN_S = 20


def run(lab: Lab) -> list[Row]:
    """Report another install's open in each round; the upstream answers slowly enough to meet them all."""
    calls: list[float] = []
    agreeing: list[float] = []
    problems: list[str] = []
    with lab.upstream() as upstream, lab.service(upstream) as service:
        upstream.delay(DELAY_MS)
        for number in range(1, lab.rounds + 1):
            before = upstream.calls()
            install = f"burst-{number}-{secrets.token_hex(8)}"
            answers = uvloop.run(_burst(urlsplit(service.url).netloc, install))
            calls.append(upstream.calls() - before)
            agreed = _agreeing(answers)
            agreeing.append(agreed)
            if agreed < REPORTS:
                problems.append(f"round {number}: {dict(_outcomes(answers).most_common(4))}")
            lab.say(f"round {number} of {lab.rounds}: {agreed} agree, {calls[-1]:.0f} upstream calls")
        problems += complaints(service)
    return [
        Row(
            name=f"{REPORTS:,} concurrent reports of one open: upstream calls",
            rounds=calls,
            at_least=1,
            at_most=1,
        ),
        Row(
            name="    of which answered 200 with the same clickId",
            rounds=agreeing,
            at_least=REPORTS,
            at_most=REPORTS,
            problems=problems,
        ),
    ]


async def _burst(netloc: str, install: str) -> list[tuple[int, bytes]]:
    """Connect everybody first, then let all speak at once."""
    host, port = netloc.split(":")
    request = sample.request(install, netloc)
    try:
        async with asyncio.timeout(_WITHIN_S):
            streams = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(REPORTS)))
            for _, writer in streams:
                writer.write(request)
            answers = await asyncio.gather(*(_answer(reader) for reader, _ in streams))
            for _, writer in streams:
                writer.close()
    except TimeoutError as exc:
        raise Failed(f"{REPORTS} reports were not answered within {_WITHIN_S} s") from exc
    return answers


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head.split(b" ", 2)[1]), await reader.readexactly(size)
    except (OSError, asyncio.IncompleteReadError) as exc:
        return 0, type(exc).__name__.encode()


def _outcomes(answers: list[tuple[int, bytes]]) -> Counter[str]:
    """Count what was answered, by status and clickId."""
    return Counter(
        f"{status} {msgspec.json.decode(answer).get('clickId') if status == 200 else answer[:80]!r}"
        for status, answer in answers
    )


def _agreeing(answers: list[tuple[int, bytes]]) -> int:
    good = {told: count for told, count in _outcomes(answers).items() if _has_click(told)}
    return max(good.values(), default=0)


def _has_click(told: str) -> bool:
    return told.startswith("200 ") and told != "200 None"
