"""A mapping that is replaced as a whole when the configuration is read again."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Current(Mapping[str, T]):
    """What is in force now, by name. Look values up when they are needed, and keep them for one request.

    A value never changes, so that one request sees one configuration. Iteration over the mapping itself ends
    with an error if it is replaced meanwhile; so do not await inside of it.
    """

    def __init__(self, values: Mapping[str, T]) -> None:
        self._values = dict(values)

    def replace(self, values: Mapping[str, T]) -> None:
        """Put other values in force."""
        self._values = dict(values)

    def __getitem__(self, name: str) -> T:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
