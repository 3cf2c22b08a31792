"""Poll /health/live, and tell how long it had to wait: ``python -m tests.attack.watch PORT PID``.

Each line on stdin is answered by the longest such wait in ms since the line before. A wait counts as
no more than the CPU time that the service took meanwhile, for the requests before this one and for its
database: what the machine took for other processes, such as the attackers, does not count. So no turn of the
event loop was longer. (The kernel books the time of a thread that is running every 4 ms or so.)
"""

import contextlib
import http.client
import select
import sys
import time
from pathlib import Path

_EVERY_S = 0.004
_QUEUE_TIMEOUT_S = 30


def _watch(port: int, pid: int) -> None:
    threads = Path(f"/proc/{pid}/task")

    def worked_ms() -> float:
        total_ns = 0
        for schedstat in threads.glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                total_ns += int(schedstat.read_text().split()[0])
        return total_ns / 1e6

    longest_ms = 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_QUEUE_TIMEOUT_S)
    while True:
        began, before_ms = time.perf_counter(), worked_ms()
        try:
            connection.request("GET", "/health/live")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()
        waited_ms = (time.perf_counter() - began) * 1000
        longest_ms = max(longest_ms, min(waited_ms, worked_ms() - before_ms))
        if select.select([sys.stdin], [], [], _EVERY_S)[0]:
            if not sys.stdin.readline():
                return
            sys.stdout.write(f"{longest_ms}\n")
            sys.stdout.flush()
            longest_ms = 0.0


if __name__ == "__main__":
    _watch(int(sys.argv[1]), int(sys.argv[2]))
