"""Watch opens live over several connections: ``python -m tests.bench.watching URL COUNT``.

It says ``ready`` when all are connected, reads until standard input ends, and then says how many opens came
on the connection that got the fewest. It is a process of its own because threads that read would delay the
load that is measured.
"""

import selectors
import socket
import sys
from urllib.parse import urlsplit

from tests.bench.sample import SERVER_KEY

_WITHIN_S = 20.0
_READ_BYTES = 65536
_OPEN = b"event: open\n"  # one that two reads share is not counted


def main(url: str, count: int) -> None:
    """Connect, read until standard input ends, and report."""
    connections = [_watch(urlsplit(url).netloc) for _ in range(count)]
    received = dict.fromkeys(connections, 0)
    with selectors.DefaultSelector() as selector:
        for each in connections:
            selector.register(each, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        _say("ready")
        while True:
            readable = [key.fileobj for key, _ in selector.select()]
            if sys.stdin in readable:
                break
            for each in connections:
                if each in readable:
                    data = each.recv(_READ_BYTES)
                    if not data:
                        raise SystemExit("a watcher was disconnected")
                    received[each] += data.count(_OPEN)
    _say(str(min(received.values())))


def _watch(netloc: str) -> socket.socket:
    """Return a connection that gets the opens of the sample's app."""
    host, port = netloc.split(":")
    connection = socket.create_connection((host, int(port)), timeout=_WITHIN_S)
    head = f"Host: {netloc}\r\nAuthorization: Bearer {SERVER_KEY}"
    connection.sendall(f"GET /v1/opens/live HTTP/1.1\r\n{head}\r\n\r\n".encode())
    answer = connection.recv(_READ_BYTES)
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"a watcher was refused: {answer[:80]!r}")
    return connection


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
