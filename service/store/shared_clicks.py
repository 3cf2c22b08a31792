"""One window of clicks for all replicas: whose turn it is asks Dub, everybody reads what it found.

What can go wrong: a "none" from a fetch that began before the open arrived (turns are numbered by the server:
who asks waits for a turn that begins after its question); a replica that dies in its turn (it is over after
``_TURN_MS``); two that take the same turn (each click is held once); a server that forgot (the end of a turn
that it does not know says nothing). What a fetch found is sealed.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from service.resolve.click_events import Fault
from service.resolve.errors import OverBudget, StoreFailed
from service.resolve.matching import Click
from service.store.sealing import Seal, Unsealable
from service.store.valkey import CLAIM_S, PREFIX, WRITE_S, Command, Script, Valkey

_TURN_MS = 12_000  # longer than a page of Dub's may take
_LOOK_EVERY_S = 0.025
_BATCHES = 20
_SPARE_MS = 600_000  # for which clicks are kept beyond the window
_MS = 1000

_TURN = Script("""
-- Take a turn, if nobody has one; say which turn began last, which is over, how far it saw, and what it
-- could not read.
local state, holder = KEYS[1], KEYS[1] .. ':turn'
local mine = 0
local over = tonumber(redis.call('HGET', state, 'over') or '0')
local held = redis.call('GET', holder)
if over < tonumber(ARGV[1]) and (not held or held == ARGV[2]) then -- its own: it never heard that it got it
  redis.call('SET', holder, ARGV[2], 'PX', ARGV[3])
  redis.call('HINCRBY', state, 'began', 1)
  redis.call('PEXPIRE', state, ARGV[4])
  mine = 1
end
local told = redis.call('HMGET', state, 'began', 'seen_to', 'unread')
return {mine, tonumber(told[1] or '0'), over, told[2] or '0', told[3] or '{}'}
""")
_SHARE = Script("""
-- Add what was found, for everybody, and keep the turn for longer.
redis.call('XADD', KEYS[1] .. ':found', '*', 'by', ARGV[1], 'clicks', ARGV[2])
local now = redis.call('TIME')
local oldest = tonumber(now[1]) * 1000 - tonumber(ARGV[4])
redis.call('XTRIM', KEYS[1] .. ':found', 'MINID', '~', string.format('%d', math.max(oldest, 0)))
redis.call('PEXPIRE', KEYS[1] .. ':found', ARGV[4])
local turn = KEYS[1] .. ':turn'
if redis.call('GET', turn) == ARGV[1] then redis.call('PEXPIRE', turn, ARGV[3]) end
return 0
""")
_OVER = Script("""
-- End a turn; where it saw everything, say how far. Of one that began before the server forgot, nothing.
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], 'began') or '0') then return 0 end
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[1], 'over') or '0') then
  redis.call('HSET', KEYS[1], 'over', ARGV[2], 'unread', ARGV[4])
end
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', KEYS[1], 'seen_to') or '0') then
  redis.call('HSET', KEYS[1], 'seen_to', ARGV[3])
end
if redis.call('GET', KEYS[1] .. ':turn') == ARGV[1] then redis.call('DEL', KEYS[1] .. ':turn') end
return 0
""")
_SPEND = Script("""
-- Take one call of so many in any second; return for how many ms more there is none.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 1000)
local spent = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local most = tonumber(ARGV[2])
if #spent / 2 >= most then return tonumber(spent[#spent - 2 * most + 2]) + 1000 - now end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], 1000)
return 0
""")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, Click]]).decode
_decode_unread = msgspec.json.Decoder(dict[Fault, int]).decode


class SharedClicks:
    """Fills ``resolve.click_feed.Together`` for one app, raising ``StoreFailed``."""

    def __init__(self, valkey: Valkey, seal: Seal, app: str, window_s: float) -> None:
        self._valkey = valkey
        self._seal = seal
        self._key = f"{PREFIX}{{w:{app}}}"
        self._token = secrets.token_hex(8)
        self._keep_ms = int(window_s * _MS) + _SPARE_MS
        self._turn = 0
        self._read_to = "0"

    async def turn(self) -> tuple[bool, int, Mapping[Fault, int]]:
        """Wait until a fetch that began after this is over, or it is one's own turn to make one.

        Returns whether it is, how far fetches have seen, in Unix milliseconds, and what the last one could
        not read.
        """
        mine, began, over, seen_to, unread = await self._ask_for_turn(1 << 52)
        wanted = began + 1
        while not mine and over < wanted:
            await asyncio.sleep(_LOOK_EVERY_S)
            mine, began, over, seen_to, unread = await self._ask_for_turn(wanted)
        self._turn = began if mine else 0
        return mine, seen_to, unread

    async def read(self) -> AsyncIterator[list[tuple[int, Click]]]:
        """Yield what was found since the last time, with the network of each click."""
        while True:
            command: Command = ("XRANGE", f"{self._key}:found", f"({self._read_to}", "+", "COUNT", _BATCHES)
            (batches,) = await self._valkey.ask("clicks", [command], WRITE_S)
            for message, fields in batches:
                self._read_to = message.decode()
                told = (
                    dict(zip(fields[::2], fields[1::2], strict=True)) if isinstance(fields, list) else fields
                )
                if told[b"by"] != self._token.encode():
                    try:
                        yield _decode(self._seal.open(told[b"clicks"]))
                    except Unsealable:
                        continue
            if len(batches) < _BATCHES:
                return

    async def share(self, clicks: Sequence[tuple[int, Click]]) -> None:
        """Let every replica read what was found in this turn."""
        sealed = self._seal.seal(_encode(clicks))
        await self._do(_SHARE.command(self._key, self._token, sealed, _TURN_MS, self._keep_ms))

    async def over(self, seen_to_ms: int, unread: Mapping[Fault, int]) -> None:
        """End a turn that saw everything up to then, but for so many events that it could not read."""
        told = msgspec.json.encode(unread)
        await self._do(_OVER.command(self._key, self._token, self._turn, seen_to_ms, told))

    async def give_up(self) -> None:
        """End a turn that came to nothing; never raises."""
        try:
            await self._do(_OVER.command(self._key, self._token, 0, 0, "{}"))
        except StoreFailed:
            return

    async def _ask_for_turn(self, wanted: int) -> tuple[bool, int, int, int, Mapping[Fault, int]]:
        command = _TURN.command(self._key, wanted, self._token, _TURN_MS, self._keep_ms)
        mine, began, over, seen_to, unread = await self._do(command)
        return bool(mine), began, over, int(seen_to), _decode_unread(unread)

    async def _do(self, command: Command) -> Any:
        (reply,) = await self._valkey.ask("clicks", [command], WRITE_S)
        return reply


class SharedBudget:
    """Analytics calls of a workspace, counted for all replicas; while Valkey is away, each counts its own."""

    def __init__(self, valkey: Valkey, secret: str) -> None:
        self._valkey = valkey
        self._secret = blake2b(secret.encode("utf-8", "surrogateescape"), person=b"firstopen.spent").digest()

    async def spend(self, workspace: str, per_s: int) -> None:
        """Take one call; raises ``OverBudget`` with the time after which there is one again."""
        name = blake2b(workspace.encode(), digest_size=16, key=self._secret).hexdigest()
        command = _SPEND.command(f"{PREFIX}b:{name}", secrets.token_hex(8), per_s)
        try:
            (wait_ms,) = await self._valkey.ask("clicks", [command], WRITE_S)
        except StoreFailed:
            return
        if wait_ms > 0:
            raise OverBudget(wait_ms / _MS)


class SharedCrowd:
    """Fills ``resolve.matcher.Crowd`` for one app: installs that opened from a network, on any replica."""

    def __init__(self, valkey: Valkey, app: str, window_s: float) -> None:
        self._valkey = valkey
        self._app = app
        self._window_ms = int(window_s * _MS)

    async def count(self, network: int, install: str, at_ms: int, *, note: bool) -> int:
        """Count distinct installs within the window before ``at_ms``; raises ``StoreFailed``."""
        key = crowd_key(self._app, network)
        commands: list[Command] = [("ZCOUNT", key, at_ms - self._window_ms, "+inf")]
        if note:
            commands = [("ZADD", key, "GT", at_ms, install), ("PEXPIRE", key, self._window_ms), *commands]
        found: int = (await self._valkey.ask("claim", commands, CLAIM_S))[-1]
        return found


def crowd_key(app: str, network: int) -> str:
    """Name the installs that opened an app from a network, by when they did."""
    return f"{PREFIX}n:{app}:{network:x}"
