"""Two replicas on a database of their own, in front of one sandbox."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.postgres import Postgres
from tests.replicas.processes import Replica, Sandbox, replica, sandbox


class World(NamedTuple):
    """Two replicas, their Dub, and the URL of their database."""

    here: Replica
    there: Replica
    dub: Sandbox
    database_url: str


@pytest.fixture
def world(tmp_path: Path, postgres: Postgres) -> Iterator[World]:
    url = postgres.database()
    with ExitStack() as stack:
        dub = stack.enter_context(sandbox(tmp_path))
        with ThreadPoolExecutor() as threads:  # each takes a second to start
            here, there = threads.map(lambda _: stack.enter_context(replica(tmp_path, dub, url)), range(2))
        yield World(here, there, dub, url)
