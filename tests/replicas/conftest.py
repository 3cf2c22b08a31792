"""Two replicas on a database of their own, in front of one sandbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.replicas.processes import World, two_replicas


@pytest.fixture
def world(tmp_path: Path, postgres: Postgres) -> Iterator[World]:
    with two_replicas(tmp_path, postgres.database()) as found:
        yield found
