"""Store the short links that were created through Dub, and count them for quotas.

What can go wrong: two replicas create a link for one install at the same moment and exceed its quota (each
counts after its own row is committed, and the later row of the two is refused); an install is erased while
its link is created (the link is written into the row of its request only, which the erasure has deleted); a
destination contains personal data (links are encrypted, their names are keyed hashes).
"""

from collections.abc import Sequence

import msgspec

from service.domain.short_links import ShortLink, StoredLink
from service.storage.database import Database
from service.storage.encryption import Cipher, Undecryptable
from service.storage.hashes import device_number
from service.storage.statements import Statement, placeholders

TIMEOUT_S = 1.0

_EXPIRED_AT_A_TIME = 1000
_ADD = """INSERT INTO short_links (app, name, device, template, created_at, record)
    VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (app, name) DO NOTHING"""
_EARLIER = """SELECT count(*) FROM short_links WHERE device = ? AND app = ? AND template = ?
    AND created_at >= ? AND name <> ?
    AND (record IS NOT NULL OR created_at < ? OR (created_at = ? AND name < ?))"""
_COMPLETE = "UPDATE short_links SET record = ? WHERE app = ? AND name = ?"
_GIVE_UP = "DELETE FROM short_links WHERE app = ? AND name = ? AND record IS NULL"
_EXPIRE = """DELETE FROM short_links WHERE (app, name) IN
    (SELECT app, name FROM short_links WHERE created_at < ? LIMIT ?) RETURNING 1"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ShortLink).decode


class ShortLinkStore:
    """Implements ``ports.KeptLinks``. Times are Unix seconds."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    async def find(self, app: str, names: Sequence[str]) -> StoredLink | None:
        """Return the link that is stored under one of these names, preferably a complete one."""
        sql = (
            "SELECT name, created_at, record FROM short_links WHERE app = ?"  # noqa: S608  placeholders
            f" AND name IN ({placeholders(len(names))})"
        )
        rows = await self._database.read(sql, app, *names, timeout_s=TIMEOUT_S)
        found = [StoredLink(name, at / 1000, self._link(record)) for name, at, record in rows]
        return min(found, key=lambda each: (each.link is None, names.index(each.name)), default=None)

    async def add(self, app: str, name: str, device: str | None, template: str, at: float) -> None:
        """Commit that a link is asked for, once for each name."""
        number = None if device is None else device_number(device)
        await self._database.write(
            Statement(_ADD, (app, name, number, template, _ms(at))), timeout_s=TIMEOUT_S
        )

    async def earlier(self, app: str, name: str, device: str, template: str, at: float, since: float) -> int:
        """Count the other links of an install and template that were created, or asked for before this one.

        Only those from ``since`` on count.
        """
        at_ms = _ms(at)
        values = (device_number(device), app, template, _ms(since), name, at_ms, at_ms, name)
        ((count,),) = await self._database.read(_EARLIER, *values, timeout_s=TIMEOUT_S)
        return int(count)

    async def complete(self, app: str, name: str, link: ShortLink) -> None:
        """Commit what Dub has created; do nothing if the request was deleted meanwhile."""
        record = self._cipher.encrypt(_encode(link))
        await self._database.write(Statement(_COMPLETE, (record, app, name)))

    async def give_up(self, app: str, name: str) -> None:
        """Delete a request that Dub refused."""
        await self._database.write(Statement(_GIVE_UP, (app, name)))

    async def forget(self, devices: Sequence[str]) -> int:
        """Delete the links of these devices; return how many."""
        sql = f"DELETE FROM short_links WHERE device IN ({placeholders(len(devices))}) RETURNING 1"  # noqa: S608  placeholders
        (rows,) = await self._database.write(Statement(sql, tuple(map(device_number, devices))))
        return len(rows)

    async def expire(self, before_ms: int) -> int:
        """Delete a batch of links from before a time (Unix milliseconds); return how many."""
        (rows,) = await self._database.write(Statement(_EXPIRE, (before_ms, _EXPIRED_AT_A_TIME)))
        return len(rows)

    def _link(self, record: bytes | None) -> ShortLink | None:
        """Decode a link; None if its secret is no longer listed: Dub is asked for it again."""
        if record is None:
            return None
        try:
            return _decode(self._cipher.decrypt(bytes(record)))
        except (Undecryptable, msgspec.DecodeError):
            return None


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
