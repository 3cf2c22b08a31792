"""What replicas share of answers, links and claims, in Valkey under the in-process tier.

What can go wrong: a pending answer of one replica written over another's final one (it never is); a claim
that the server forgot in a failover (who gave a click remembers it, and gives it to nobody else); a clock
of another process (times in Valkey are Unix time); somebody's clipboard in a key (what names a link is a
keyed hash, and records are sealed as on disk).
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import msgspec
from cachetools import LRUCache
from msgspec import Struct, structs

from service.resolve.errors import StoreFailed
from service.resolve.evidence import link_name
from service.resolve.model import Link, Open
from service.store.memory import Known, MemoryLimits, MemoryStore
from service.store.records import Records
from service.store.valkey import CLAIM_S, PREFIX, RECALL_S, WRITE_S, Behind, Command, Script, Valkey
from service.telemetry import Tally

_FORGOTTEN = f"{PREFIX}forgotten"
_CLAIMS_REMEMBERED = 100_000
_MS = 1000
_HEAR_EVERY_S = 0.5
_NEWS_S = 1.0
_HEAR_ALL_EVERY_S = 60.0
_LATE_S = 120.0  # by another clock, or written behind

_CLAIM = Script("""
-- Give a click that is free to an install, unless who asks remembers another owner that the server forgot.
local owner = redis.call('GET', KEYS[1])
if not owner and ARGV[2] ~= '' then owner = ARGV[2] end
if not owner or owner == '' then owner = ARGV[1] end
redis.call('SET', KEYS[1], owner, 'PX', ARGV[3])
return owner
""")
_RELEASE = Script("""
-- Free a click, if it is this install's: an owner of no name, so that nobody takes it for forgotten.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return owner end
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
return ''
""")

_encode = msgspec.msgpack.Encoder().encode


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
        self,
        limits: MemoryLimits,
        times: Times,
        valkey: Valkey,
        behind: Behind,
        *,
        records: Records,
        secret: str,
        asked: Tally,
    ) -> None:
        super().__init__(limits, times.clock)
        self._times = times
        self._valkey = valkey
        self._behind = behind
        self._records = records
        self._secret = blake2b(secret.encode("utf-8", "surrogateescape"), person=b"firstopen.names").digest()
        self._asked = asked
        self._forgotten: dict[str, float] = {}
        self._heard_to = self._heard_all = float("-inf")  # Unix seconds

    def opened(self, open_id: str) -> Open | None:
        """Recall an open by its id; not one that another replica may have settled or superseded since."""
        opened = super().opened(open_id)
        if opened is None or opened.pending or opened.match.type == "ip":
            return None
        return opened

    def pending(self, open_id: str) -> Open | None:
        """Recall an open by its id, also one that another replica may have settled."""
        return super().opened(open_id)

    async def shared(
        self, key: bytes, first_launch: bytes | None, links: Sequence[tuple[str, str]]
    ) -> Open | None:
        """Bring into memory what other replicas know, and return the answer under the key; never raises."""
        keys = [key] if first_launch is None else [key, first_launch]
        lacking = [link_name(*link) for link in links if self._lacks(*link)]
        commands: list[Command] = [("GET", _answer(each)) for each in keys]
        commands += [("GET", self._link(name)) for name in lacking]
        commands += [("GET", self._no_link(name)) for name in lacking]
        try:
            replies = await self._valkey.ask("recall", commands, RECALL_S)
        except StoreFailed:
            self._asked.add("valkey", "failed")
            return None
        answers, told = replies[: len(keys)], replies[len(keys) :]
        for name, link, unknown in zip(lacking, told, told[len(lacking) :], strict=False):
            with contextlib.suppress(ValueError):  # of another layout, or damaged: as if it were not there
                self._learn(name, link, unknown)
        opens = [None if record is None else self._revived(record) for record in answers]
        for each, opened in zip(keys, opens, strict=True):
            if opened is not None and self._is_news(each, opened):
                super().keep(each, opened)
        self._asked.add("valkey", "miss" if opens[0] is None else "hit")
        return self.answer(key)

    def keep(self, key: bytes, opened: Open) -> None:
        """Remember an open here, and soon for every replica; a pending one never in place of a final one."""
        super().keep(key, opened)
        if (command := self._to_keep(key, opened)) is not None:
            self._behind.put(command)

    def keep_strongest(self, key: bytes, opened: Open, compare: Callable[[Open], None]) -> None:
        """Remember an install's strongest open, and learn which one another replica had noted there."""

        def hear(record: bytes | None) -> None:
            other = self._revived(record) if isinstance(record, bytes) else None
            if other is not None and other.open_id != opened.open_id:
                compare(other)

        if opened.provisional:
            self.keep(key, opened)
            return
        super().keep(key, opened)
        if (command := self._to_keep(key, opened)) is not None:
            self._behind.put((*command, "GET"), hear=hear)

    def forget(self, open_ids: frozenset[str]) -> None:
        """Forget these opens here, and within a second on every replica."""
        self._forget(open_ids)
        if open_ids:
            now = self._times.wall()
            scored = [part for open_id in open_ids for part in (now, open_id)]
            self._behind.put(
                ("ZADD", _FORGOTTEN, *scored),
                ("ZREMRANGEBYSCORE", _FORGOTTEN, "-inf", now - self._longest_s()),
                ("PEXPIRE", _FORGOTTEN, int(self._longest_s() * _MS)),
            )

    async def hear(self) -> None:
        """Learn which opens other replicas have forgotten; raises ``StoreFailed``.

        Those of the last minutes, and now and then all of them: some were written late.
        """
        now = self._times.wall()
        hears_all = now - self._heard_all > _HEAR_ALL_EVERY_S
        since = "-inf" if hears_all else repr(self._heard_to - _LATE_S)
        (told,) = await self._valkey.ask("hear", [("ZRANGE", _FORGOTTEN, since, "+inf", "BYSCORE")], WRITE_S)
        self._heard_to = now
        if hears_all:
            self._heard_all = now
        news = frozenset(each.decode() for each in told) - self._forgotten.keys()
        if news:
            self._forget(news)

    def keep_link(self, domain: str, key: str, link: Link) -> Link:
        """Remember what Dub said a link is, here and soon for every replica."""
        name = link_name(domain, key)
        before = self._links.get(name)
        link = super().keep_link(domain, key, link)
        if self._links.get(name) is not before:
            record = _encode(_SharedLink(self._times.wall(), link))
            ms = max(int(self._limits.link_ttl_s * _MS), 1)
            self._behind.put(("SET", self._link(name), record, "PX", ms), ("DEL", self._no_link(name)))
        return link

    def keep_unknown(self, domain: str, key: str, asked: float) -> None:
        """Remember that Dub knows no such link, here and soon for every replica."""
        super().keep_unknown(domain, key, asked)
        lasts_ms = int(self.unknown_for_s(domain, key) * _MS)
        if lasts_ms > 0:
            name = link_name(domain, key)
            until = self._times.wall() + lasts_ms / _MS
            self._behind.put(
                ("SET", self._no_link(name), repr(until), "PX", lasts_ms), ("DEL", self._link(name))
            )

    def _to_keep(self, key: bytes, opened: Open) -> Command | None:
        """Return the command that keeps an answer for every replica, if it lasts."""
        lasts_s = opened.repeat_until - self._clock()
        if opened.provisional:
            lasts_s += self._limits.open_ttl_s
        if lasts_s <= 0:
            return None
        record = self._records.of(structs.replace(opened, repeat_until=self._times.out(opened.repeat_until)))
        return ("SET", _answer(key), record, "PX", max(int(lasts_s * _MS), 1), *only_if(opened))

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

    def _revived(self, record: bytes) -> Open | None:
        opened = self._records.plain(record)
        if opened is None or opened.open_id in self._forgotten:
            return None
        until = self._times.back(opened.repeat_until)
        if opened.looking:  # elsewhere: asked for again soon, it may have its click
            until = min(until, self._clock() + _NEWS_S)
        return structs.replace(opened, repeat_until=until)

    def _forget(self, open_ids: frozenset[str]) -> None:
        """Forget, and take no answer of theirs from Valkey for as long as there may be one."""
        super().forget(open_ids)
        now = self._clock()
        self._forgotten = {each: until for each, until in self._forgotten.items() if until > now}
        self._forgotten |= dict.fromkeys(open_ids, now + self._longest_s())

    def _longest_s(self) -> float:
        return 2 * self._limits.open_ttl_s + 1

    def _link(self, name: str) -> str:
        return f"{PREFIX}l:{self._hashed(name)}"

    def _no_link(self, name: str) -> str:
        return f"{PREFIX}u:{self._hashed(name)}"

    def _hashed(self, name: str) -> str:
        return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16, key=self._secret).hexdigest()


class Hearing:
    """Listens to what other replicas forget; it also finds out, with no traffic, that the server is back."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(StoreFailed):
                await self._memory.hear()
            await asyncio.sleep(_HEAR_EVERY_S)


class SharedClaims:
    """Fills ``resolve.ports.Claims``, raising ``StoreFailed``. A claim lasts ``ttl_s`` seconds."""

    def __init__(self, valkey: Valkey, behind: Behind, ttl_s: float) -> None:
        self._valkey = valkey
        self._behind = behind
        self._ttl_ms = int(ttl_s * _MS)
        self._owners: LRUCache[str, str] = LRUCache(_CLAIMS_REMEMBERED)

    async def owners(self, click_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the installs that have claimed any of these clicks, by click."""
        commands: list[Command] = [("GET", _claim(each)) for each in click_ids]
        replies = await self._valkey.ask("claim", commands, CLAIM_S)
        owners = {each: self._owner(each, told) for each, told in zip(click_ids, replies, strict=True)}
        return {each: owner for each, owner in owners.items() if owner}

    async def claim(self, click_id: str, install: str) -> bool:
        """Give a click to an install, if it is free or its own already; returns whether it is its own."""
        command = _CLAIM.command(_claim(click_id), install, self._owners.get(click_id, ""), self._ttl_ms)
        (told,) = await self._valkey.ask("claim", [command], CLAIM_S)
        is_own = self._owner(click_id, told) == install
        if is_own:
            claims = _claims_of(install)
            self._behind.put(("SADD", claims, click_id), ("PEXPIRE", claims, self._ttl_ms))
        return is_own

    async def release(self, click_id: str, install: str) -> None:
        """Free a click, if it is the install's own, for every replica."""
        command = _RELEASE.command(_claim(click_id), install, self._ttl_ms)
        (told,) = await self._valkey.ask("claim", [command], WRITE_S)
        self._owner(click_id, told)
        self._behind.put(("SREM", _claims_of(install), click_id))

    def _owner(self, click_id: str, told: bytes | None) -> str:
        """Return a click's owner: as the server says, or as we remember if it has forgotten."""
        if told is None:
            return self._owners.get(click_id, "")
        owner = told.decode()
        self._owners[click_id] = owner
        return owner

    async def forget(self, devices: Sequence[str]) -> int:
        """Forget a device's claims; return how many."""
        await self._behind.flush()
        forgotten = 0
        for device in devices:
            (clicks,) = await self._valkey.ask("claim", [("SMEMBERS", _claims_of(device))], WRITE_S)
            click_ids = [each.decode() for each in clicks]
            commands: list[Command] = [("DEL", _claim(each)) for each in click_ids]
            removed = await self._valkey.ask("claim", [*commands, ("DEL", _claims_of(device))], WRITE_S)
            forgotten += sum(removed[:-1])
            for each in click_ids:
                self._owners.pop(each, None)
        return forgotten


def only_if(opened: Open) -> tuple[str, ...]:
    """Keep a pending open from taking the place of what is there: another replica may have settled it."""
    return ("NX",) if opened.provisional else ()


def _answer(key: bytes) -> str:
    return f"{PREFIX}a:{key.hex()}"


def _claim(click_id: str) -> str:
    return f"{PREFIX}c:{click_id}"


def _claims_of(device: str) -> str:
    return f"{PREFIX}y:{device}"
