"""What every measurement is made in: two cores, and servers to start on them."""

import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import structs

from tests.bench.processes import Failed, Server, clean_env, fetch, free_port, serving
from tests.bench.sample import CONFIG, KEYS, SECRET
from tests.bench.upstream import Counts
from tests.postgres import Postgres, PostgresMissing
from tests.postgres import serving as serving_postgres

_ANSWER_EVERYTHING = frozenset({"echo", "aiohttp_proxy"})

_HARMLESS = (b'"level":"info"', b'"level":"debug"')
_LATE = b'"event":"open.late"'


class Upstream(msgspec.Struct, frozen=True):
    """The fake Dub, from outside."""

    url: str

    def counts(self) -> Counts:
        """Return what it was told of, and what it has answered."""
        return msgspec.json.decode(fetch("GET", f"{self.url}/counts")[1], type=Counts)

    def calls(self) -> int:
        """Return how many opens it was told of."""
        return self.counts().calls

    def delay(self, delay_ms: int) -> None:
        """Make it answer so much later from now on."""
        fetch("PUT", f"{self.url}/delay", str(delay_ms))

    def clicks(self, count: int) -> None:
        """Make it list so many clicks, each from an address of its own, made within the last hour."""
        fetch("PUT", f"{self.url}/clicks", str(count))

    def stall(self) -> None:
        """Make it answer nothing from now on."""
        fetch("PUT", f"{self.url}/stall", "on")

    def recover(self) -> None:
        """Make it answer again, also what it left unanswered."""
        fetch("PUT", f"{self.url}/stall", "off")


class Lab:
    """Starts servers, each with a folder of its own, and tells a person how far it is.

    Unless ``pinned`` is false, a server has one of the two cores.
    """

    def __init__(
        self, *, folder: Path, cores: tuple[int, int], rounds: int, seconds: int, pinned: bool = True
    ) -> None:
        self.server_core, self.load_core = cores
        self._pinned = pinned
        self.rounds = rounds
        self.seconds = seconds
        self._folder = folder
        self._started = 0
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Report progress."""
        sys.stderr.write(f"[{time.monotonic() - self._began:5.0f} s] {text}\n")
        sys.stderr.flush()

    @contextmanager
    def upstream(self) -> Iterator[Upstream]:
        """Run a fake Dub on the load's core."""
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.upstream", str(port)]
        log = self.new_folder("upstream") / "log"
        with serving(
            command, port=port, core=self._on(self.load_core), log=log, env=clean_env(), ready_path="/counts"
        ) as server:
            yield Upstream(server.url)

    @contextmanager
    def baseline(self, name: str, upstream: Upstream) -> Iterator[Server]:
        """Run one of ``tests.bench.baselines``."""
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.baselines", name, str(port), upstream.url]
        log = self.new_folder(name) / "log"
        with serving(
            command,
            port=port,
            core=self._on(self.server_core),
            log=log,
            env=clean_env(),
            ready_path="/ready",  # which no Litestar here has
            ready_status=200 if name in _ANSWER_EVERYTHING else 404,
        ) as server:
            yield server

    @contextmanager
    def service(
        self,
        upstream: Upstream,
        *,
        tables: str = "",
        database_url: str = "",
        port: int | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Iterator[Server]:
        """Run firstopen as an operator would; ``tables`` are more of its ``firstopen.toml``.

        Without a ``database_url`` it has SQLite in its ``folder``, which is a new one unless it is given.
        """
        port = port or free_port()
        folder = folder or self.new_folder("firstopen")
        config = folder / "firstopen.toml"
        config.write_text(f"{CONFIG}\n{tables}")
        variables = {
            **clean_env(),
            "FIRSTOPEN_CONFIG": str(config),
            "FIRSTOPEN_DATA_DIR": str(folder),
            "FIRSTOPEN_SECRET": SECRET,
            "FIRSTOPEN_PORT": str(port),
            "DUB_BASE_URL": upstream.url,
            **KEYS,
            **(env or {}),
        }
        if database_url:
            variables["FIRSTOPEN_DATABASE_URL"] = database_url
        command = [sys.executable, "-m", "service", "serve"]
        with serving(
            command,
            port=port,
            core=self._on(self.server_core),
            log=folder / "log",
            env=variables,
            ready_path="/health/ready",
        ) as server:
            yield structs.replace(server, database_url=database_url)

    @contextmanager
    def postgres(self) -> Iterator[Postgres]:
        """Run a PostgreSQL with its own defaults on the load's core, as this process is pinned to it."""
        try:
            with serving_postgres() as server:
                yield server
        except PostgresMissing as exc:
            raise Failed(str(exc)) from exc

    @contextmanager
    def proxy(self, *args: str) -> Iterator[Server]:
        """Run ``tests.bench.proxy`` on the load's core."""
        port = free_port()
        command = [sys.executable, "-m", "tests.bench.proxy", str(port), *args]
        log = self.new_folder("proxy") / "log"
        with serving(
            command,
            port=port,
            core=self._on(self.load_core),
            log=log,
            env=clean_env(),
            ready_path="/proxy/status",
        ) as server:
            yield server

    def _on(self, core: int) -> int | str:
        """Return where a process runs: on this core, or on all of them."""
        return core if self._pinned else ",".join(map(str, sorted(os.sched_getaffinity(0))))

    def new_folder(self, name: str) -> Path:
        """Return a new empty folder."""
        self._started += 1
        folder = self._folder / f"{self._started}-{name}"
        folder.mkdir()
        return folder


def complaints(service: Server, *, expected: Collection[str] = ()) -> list[str]:
    """Return what the service's log says went wrong: warnings, errors, and answers without Dub's.

    ``expected`` are events that belong to what is measured.
    """
    found: Counter[str] = Counter()
    with service.log.open("rb") as lines:
        for line in lines:
            if line.startswith(b"{") and (_LATE in line or not any(level in line for level in _HARMLESS)):
                found[msgspec.json.decode(line, type=dict[str, object])["event"]] += 1  # type: ignore[index]
            elif line.startswith(b"Traceback "):
                found["a traceback"] += 1
    return [
        f"the service logged {event} {count} times" for event, count in found.items() if event not in expected
    ]
