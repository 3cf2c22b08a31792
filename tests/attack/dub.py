"""A fake Dub that answers some links badly: ``python -m tests.attack.dub PORT``.

Links whose path begins with ``/bad302``, ``/bad500``, ``/bad404`` or ``/badhtml`` get that. ``/whose`` gets a
link with the address that the caller was said to have. ``GET /events`` answers the query that it was sent.
"""

import asyncio
import re
import sys

import uvloop
from msgspec import json

from tests.bench.upstream import Protocol, State

_BAD = re.compile(rb"/bad(302|500|404|html)")
_HEAD = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_FAILED = b'{"error":{"code":"internal_server_error","message":"","doc_url":""}}'
_ECHO_CHARS = 11_000


class AttackedDub(Protocol):
    """One connection."""

    def answer(self, head: bytes, body: bytes) -> None:
        """Answer badly if the link says so, as a good Dub otherwise."""
        bad = _BAD.search(body)
        if bad is not None:
            self._send(*_bad_answer(bad[1], body))
        elif b"/whose" in body:
            found = re.search(rb"\r\nx-real-ip: *([^\r]*)", head, re.IGNORECASE)
            url = f"https://acme.com/ip/{found[1].decode() if found else 'none'}"
            link = {"id": "link_2", "domain": "acme.link", "key": "whose", "url": url}
            self._send(b"200 OK", json.encode({"clickId": "w" * 16, "link": link}))
        else:
            super().answer(head, body)

    def _controlled(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET /events"):
            asked = json.encode([{"asked": head.partition(b" HTTP/")[0].decode("latin-1")}])
            return _HEAD % (b"200 OK", len(asked)) + asked
        return super()._controlled(head, body)

    def _send(self, status: bytes, body: bytes) -> None:
        self._transport.write(_HEAD % (status, len(body)) + body)


def _bad_answer(kind: bytes, asked: bytes) -> tuple[bytes, bytes]:
    if kind == b"302":
        return b"302 Found\r\nlocation: https://example.com/", b""
    if kind == b"500":
        return b"500 Internal Server Error", _FAILED
    if kind == b"html":
        return b"200 OK", b"<html>"
    # Dub's 404 repeats the link that it does not know (dub-api.md, POST /track/open).
    message = f"Deep link not found: {asked.decode()}".ljust(_ECHO_CHARS, "x")
    return b"404 Not Found", json.encode({"error": {"code": "not_found", "message": message, "doc_url": ""}})


async def _serve(port: int) -> None:
    state = State()
    server = await asyncio.get_running_loop().create_server(
        lambda: AttackedDub(state), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
