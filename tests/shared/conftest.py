"""One real server for a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.server import Server, serving


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "valkey") as server:
        yield server
