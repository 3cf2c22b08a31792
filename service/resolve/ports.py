"""What the decision needs from outside, owned here and filled by ``dub`` and ``store``."""

from typing import Protocol

from service.resolve.model import App, Link, Open, OpenedLink


class Dub(Protocol):
    """Dub's attribution API."""

    async def track_open(self, app: App, deep_link: str, *, user_agent: str, ip: str | None) -> OpenedLink:
        """Report a deep-link open; raises ``LinkUnknown`` or a ``DubUnavailable``."""
        ...


class Memory(Protocol):
    """What is remembered of opens and links; never raises, forgetting is allowed."""

    def answer(self, key: bytes) -> Open | None:
        """Recall the open last answered under this key; it says until when it may be repeated."""
        ...

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id."""
        ...

    def keep(self, key: bytes, opened: Open) -> None:
        """Remember an open, by its id and as the answer under its key."""
        ...

    def link(self, domain: str, key: str) -> Link | None:
        """Recall a link that Dub described, days past its freshness."""
        ...

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Remember what Dub said a link is, until it says otherwise; return the one object of it."""
        ...

    def unknown_for_s(self, domain: str, key: str) -> float:
        """Return for how many seconds more Dub's "no such link" stands; 0 if it does not."""
        ...

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Remember that Dub knows no such link, unless it described one since ``asked`` (clock seconds)."""
        ...
