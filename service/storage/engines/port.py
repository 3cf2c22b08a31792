"""The interface of a database engine."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from service.storage.errors import RowsLocked, StatementRejected
from service.storage.statements import Row, Statement

Unit: TypeAlias = Sequence[Statement]  # statements that succeed or fail together
UnitResult: TypeAlias = list[list[Row]] | StatementRejected | RowsLocked  # the rows of each statement


class Engine(Protocol):
    """A connected database. Every method but ``close`` raises ``EngineUnavailable``."""

    is_shared: bool  # True if other processes may write to the same database
    reads_at_once: int  # concurrent calls of ``fetch``; more would only queue
    place: str  # the engine and its location, for people to read; without a password

    async def connect(self) -> None:
        """Connect, or check that the connection still uses the right database."""
        ...

    async def fetch(self, queries: Sequence[Statement]) -> list[list[Row]]:
        """Run queries, each in its own snapshot; raises ``StatementRejected`` for the first invalid one."""
        ...

    async def commit(self, units: Sequence[Unit]) -> list[UnitResult]:
        """Run the units in one durable transaction, without those that are rejected or whose rows are locked.

        A missing table, column or right is the database's state: it raises ``EngineUnavailable``.
        """
        ...

    async def commit_alone(self, unit: Unit) -> list[list[Row]]:
        """Run one unit, such as a migration, in a separate transaction without a time limit.

        Raises ``StatementRejected``.
        """
        ...

    async def after_erasure(self) -> bool:
        """Remove copies of erased rows from the database's files, if the engine leaves any.

        Return False if a query prevents it that has not ended yet: try again later.
        """
        ...

    async def close(self) -> None:
        """Disconnect."""
        ...
