"""What replicas share of opens, links and claims, in Valkey under the in-process tier.

What can go wrong: a pending answer of one replica written over another's final one (it never is); a claim
that the server forgot in a failover (who gave a click remembers it, and gives it to nobody else); a clock
of another process (times in Valkey are Unix time). Keys hold keyed hashes, nothing that names a person.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from cachetools import LRUCache
from msgspec import Struct, structs

from service.resolve.errors import StoreFailed
from service.resolve.model import Link, Open
from service.store.memory import Known, MemoryLimits, MemoryStore, name_of
from service.store.valkey import CLAIM_S, PREFIX, RECALL_S, Behind, Command, Valkey
from service.telemetry import Tally

_LATEST_MAX = 20
_CLAIMS_REMEMBERED = 100_000
_MS = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Open).decode


class _SharedLink(Struct, frozen=True, gc=False, array_like=True):
    """A link, and when Dub described it, in Unix seconds."""

    described: float
    link: Link


_decode_link = msgspec.msgpack.Decoder(_SharedLink).decode


class Times(Struct, frozen=True):
    """Seconds: monotonic and Unix."""

    clock: Callable[[], float]
    wall: Callable[[], float]

    def out(self, at: float) -> float:
        """Say a monotonic time as Unix time."""
        return at - self.clock() + self.wall()

    def back(self, at: float) -> float:
        """Say a Unix time as monotonic time."""
        return at - self.wall() + self.clock()


class SharedMemory(MemoryStore):
    """Fills ``resolve.ports.Memory``: the in-process tier, with what other replicas know below it."""

    is_shared = True

    def __init__(
        self, limits: MemoryLimits, times: Times, valkey: Valkey, behind: Behind, asked: Tally
    ) -> None:
        super().__init__(limits, times.clock)
        self._times = times
        self._valkey = valkey
        self._behind = behind
        self._asked = asked

    async def shared(
        self, key: bytes, first_launch: bytes | None, links: Sequence[tuple[str, str]]
    ) -> Open | None:
        """Bring into memory what other replicas know, and return the answer under the key; never raises."""
        keys = [key] if first_launch is None else [key, first_launch]
        lacking = [name_of(*link) for link in links if self._lacks(*link)]
        commands: list[Command] = [("GET", _answer(each)) for each in keys]
        commands += [("GET", f"{PREFIX}l:{name}") for name in lacking]
        commands += [("GET", f"{PREFIX}u:{name}") for name in lacking]
        try:
            replies = await self._valkey.ask("recall", commands, RECALL_S)
        except StoreFailed:
            self._asked.add("valkey", "failed")
            return None
        answers, told = replies[: len(keys)], replies[len(keys) :]
        for name, link, unknown in zip(lacking, told, told[len(lacking) :], strict=False):
            self._learn(name, link, unknown)
        opens = [None if record is None else self._revived(record) for record in answers]
        for each, opened in zip(keys, opens, strict=True):
            if opened is not None and self._is_news(each, opened):
                super().keep(each, opened)
        found = self.answer(key)
        self._asked.add("valkey", "miss" if opens[0] is None else "hit")
        return found

    def keep(self, key: bytes, opened: Open) -> None:
        """Remember an open here, and soon for every replica; a pending one never in place of a final one."""
        super().keep(key, opened)
        lasts_s = opened.repeat_until - self._clock()
        if opened.pending:
            lasts_s += self._limits.open_ttl_s
        if lasts_s <= 0:
            return
        record = _encode(structs.replace(opened, repeat_until=self._times.out(opened.repeat_until)))
        ms = max(int(lasts_s * _MS), 1)
        self._behind.put(("SET", _answer(key), record, "PX", ms, *_only_if(opened)))

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Remember what Dub said a link is, here and soon for every replica."""
        name = name_of(domain, key)
        before = self._links.get(name)
        link = super().keep_link(domain, key, link)
        if self._links.get(name) is not before:
            record = _encode(_SharedLink(self._times.wall(), link))
            self._behind.put(
                ("SET", f"{PREFIX}l:{name}", record, "PX", max(int(self._limits.link_ttl_s * _MS), 1)),
                ("DEL", f"{PREFIX}u:{name}"),
            )
        return link

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Remember that Dub knows no such link, here and soon for every replica."""
        super().keep_unknown(domain, key, asked)
        lasts_ms = int(self.unknown_for_s(domain, key) * _MS)
        if lasts_ms > 0:
            name = name_of(domain, key)
            until = self._times.wall() + lasts_ms / _MS
            self._behind.put(
                ("SET", f"{PREFIX}u:{name}", repr(until), "PX", lasts_ms), ("DEL", f"{PREFIX}l:{name}")
            )

    def _lacks(self, domain: str, key: str) -> bool:
        return self.link(domain, key) is None and self.unknown_for_s(domain, key) <= 0

    def _learn(self, name: str, link: bytes | None, unknown: bytes | None) -> None:
        if unknown is not None:
            self._unknown[name] = self._times.back(float(unknown))
        elif link is not None:
            known = _decode_link(link)
            self._links[name] = Known(self._times.back(known.described), known.link)

    def _is_news(self, key: bytes, opened: Open) -> bool:
        known = self.answer(key)
        return known is None or known.pending or known.repeat_until < opened.repeat_until

    def _revived(self, record: bytes) -> Open:
        opened = _decode(record)
        return structs.replace(opened, repeat_until=self._times.back(opened.repeat_until))


class SharedJournal:
    """Fills ``resolve.ports.Journal``; opens are forgotten after ``ttl_s`` seconds."""

    def __init__(self, valkey: Valkey, behind: Behind, times: Times, ttl_s: float) -> None:
        self._valkey = valkey
        self._behind = behind
        self._times = times
        self._ttl_ms = int(ttl_s * _MS)

    def keep(self, device: str, opened: Open) -> None:
        """Write an open down, soon; the same openId again replaces it."""
        opens, record = f"{PREFIX}d:{device}", _encode(opened)
        self._behind.put(
            ("SET", f"{PREFIX}o:{opened.open_id}", record, "PX", self._ttl_ms, *_only_if(opened)),
            ("ZADD", opens, "NX", self._times.wall(), opened.open_id),
            ("ZREMRANGEBYRANK", opens, 0, -_LATEST_MAX - 1),
            ("PEXPIRE", opens, self._ttl_ms),
        )

    async def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id; raises ``StoreFailed``."""
        await self._behind.flush()
        (record,) = await self._valkey.ask("recall", [("GET", f"{PREFIX}o:{open_id}")], RECALL_S)
        return None if record is None else self._revived(record)

    async def of_device(self, devices: Sequence[str], *, behind: bool = True) -> list[Open]:
        """Recall a device's newest opens (under any of its names), newest first; raises ``StoreFailed``."""
        if behind:
            await self._behind.flush()
        listed = await self._valkey.ask(
            "recall",
            [("ZREVRANGE", f"{PREFIX}d:{device}", 0, _LATEST_MAX - 1, "WITHSCORES") for device in devices],
            RECALL_S,
        )
        newest = sorted((pair for each in listed for pair in _scored(each)), key=lambda pair: -pair[1])
        if not newest:
            return []
        commands: list[Command] = [("GET", f"{PREFIX}o:{open_id}") for open_id, _ in newest[:_LATEST_MAX]]
        records = await self._valkey.ask("recall", commands, RECALL_S)
        return [self._revived(record) for record in records if record is not None]

    def _revived(self, record: bytes) -> Open:
        """Decode; another process's monotonic clock means nothing here: the answer is no repeat any more."""
        return structs.replace(_decode(record), repeat_until=self._times.clock())


class SharedClaims:
    """Fills ``resolve.matcher.Claims``, raising ``StoreFailed``. A claim lasts ``ttl_s`` seconds."""

    def __init__(self, valkey: Valkey, ttl_s: float) -> None:
        self._valkey = valkey
        self._ttl_ms = int(ttl_s * _MS)
        self._owners: LRUCache[str, str] = LRUCache(_CLAIMS_REMEMBERED)

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed any of these clicks, by click."""
        owners = {each: self._owners[each] for each in click_ids if each in self._owners}
        unasked = [each for each in click_ids if each not in owners]
        if unasked:
            commands: list[Command] = [("GET", f"{PREFIX}c:{each}") for each in unasked]
            replies = await self._valkey.ask("claim", commands, CLAIM_S)
            found = {
                each: owner.decode()
                for each, owner in zip(unasked, replies, strict=True)
                if owner is not None
            }
            self._owners.update(found)
            owners |= found
        return owners

    async def claim(self, click_id: str, install: str) -> bool:
        """Give a click to an install, if it is free or its own already; returns whether it is its own."""
        owner = self._owners.get(click_id)
        if owner is None:
            command = ("SET", f"{PREFIX}c:{click_id}", install, "PX", self._ttl_ms, "NX", "GET")
            (before,) = await self._valkey.ask("claim", [command], CLAIM_S)
            owner = self._owners[click_id] = install if before is None else before.decode()
        return owner == install


def _answer(key: bytes) -> str:
    return f"{PREFIX}a:{key.hex()}"


def _only_if(opened: Open) -> tuple[str, ...]:
    """Keep a pending open from taking the place of what is there: another replica may have settled it."""
    return ("NX",) if opened.pending else ()


def _scored(reply: Any) -> list[tuple[str, float]]:
    """Read members with scores, as either protocol version has them."""
    if reply and isinstance(reply[0], list | tuple):
        pairs = [(member, score) for member, score in reply]
    else:
        pairs = list(zip(reply[::2], reply[1::2], strict=True))
    return [(member.decode(), float(score)) for member, score in pairs]
