"""Null."""

from service.resolve.case import Case
from service.resolve.model import NO_MATCH, Link
from service.resolve.ports import Look


class Nobody:
    """Null."""

    def saw(self, case: Case) -> None:
        """Null."""

    def found(self, case: Case, link: Link) -> None:
        """Null."""

    async def look(self, case: Case, timeout_s: float, *, claim: bool) -> Look:
        """Null."""
        del case, timeout_s, claim
        return Look(NO_MATCH, "")

    def look_again(self, case: Case, open_id: str) -> None:
        """Null."""
