"""Poll /health/live, and tell the longest wait: ``python -m tests.attack.watch PORT``, a process of its own.

Each line on stdin is answered by the longest wait in ms since the line before. The service's longest turn of
the event loop is at most that; the wait also holds what the machine took for other processes.
"""

import http.client
import select
import sys
import time

_EVERY_S = 0.004
_PATIENCE_S = 30


def _watch(port: int) -> None:
    longest_ms = 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)
    while True:
        began = time.perf_counter()
        try:
            connection.request("GET", "/health/live")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        longest_ms = max(longest_ms, (time.perf_counter() - began) * 1000)
        if select.select([sys.stdin], [], [], _EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            sys.stdout.write(f"{longest_ms}\n")
            sys.stdout.flush()
            longest_ms = 0.0


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
