"""What the storage layer needs from a database engine."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from service.storage.errors import StatementRejected
from service.storage.statements import Row, Statement

Unit: TypeAlias = Sequence[Statement]  # statements that succeed or fail together
UnitResult: TypeAlias = list[list[Row]] | StatementRejected  # the rows of each statement


class Engine(Protocol):
    """A connected database. Every method but ``close`` raises ``EngineUnavailable``."""

    is_shared: bool  # whether other processes may write to the same database
    reads_at_once: int  # round trips of ``fetch`` under way; more would only queue
    place: str  # for people: which engine, and where; no password

    async def connect(self) -> None:
        """Connect, or make sure that the connection still serves the right database."""
        ...

    async def fetch(self, queries: Sequence[Statement]) -> list[list[Row]]:
        """Run queries, each in its own snapshot. Raises ``StatementRejected`` for the first faulty one."""
        ...

    async def commit(self, units: Sequence[Unit]) -> list[UnitResult]:
        """Run the units in one durable transaction; a rejected unit is left out of it."""
        ...

    async def commit_alone(self, unit: Unit) -> list[list[Row]]:
        """Run one unit in a transaction of its own, such as a migration, without a time limit.

        Raises ``StatementRejected``.
        """
        ...

    async def after_erasure(self) -> None:
        """Remove erased rows from the database's own files, where the engine leaves copies behind."""
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...
