"""The way to Valkey or Redis: one client, short timeouts, faults that are counted and not waited for twice.

What can go wrong: a server that is gone, stalled, full, or a replica by now. Who asks hears ``StoreFailed``
within the time that the operation has; after a few faults in a row nobody asks for a moment, so that a
stalled server costs opens nothing. What is written behind waits (bounded) for the server to come back.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, Literal, TypeAlias

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import DataError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from service.resolve.errors import StoreFailed
from service.store.valkey_url import SENDERS_MAX, SOCKET_S, connect
from service.telemetry import Event, Log

PREFIX = "fo1:"  # of every key; another layout gets another number
RECALL_S = 0.05
CLAIM_S = 0.05
WRITE_S = 0.25
BEHIND_S = 1.0

Operation = Literal["recall", "keep", "claim", "clicks", "outbox", "hear", "boot"]
Command: TypeAlias = tuple[str | bytes | int | float, ...]
Hear: TypeAlias = Callable[[Any], None]

_TICKS = (
    8  # a timeout is so many turns at least: a process that is busy itself finds its reply in one of them
)
_FAULTS_IN_A_ROW = 3
_OF_OPENS: tuple[Operation, ...] = ("recall", "claim")  # which wait for nothing while the server fails
_HELD_S = 0.5
_SAY_AGAIN_S = 1.0  # a server that takes every other thing (it is full, or slow) would fill the log
_BEHIND_MAX = 50_000
_BEHIND_MAX_BYTES = 32 * 1024 * 1024  # of what is put while the server fails: links may be 32,000 long
_BATCH = 512


@dataclass(slots=True, eq=False)
class _Asked:
    """Commands of one asker, to be sent."""

    commands: Sequence[Command]
    replies: asyncio.Future[list[Any]]


class Valkey:
    """One process's way to the server. ``clock`` is monotonic seconds."""

    def __init__(self, url: str, faults: Counter, log: Log, clock: Callable[[], float]) -> None:
        self._client = connect(url)
        self._client.set_response_callback("SET", _as_it_is)  # of SET … GET: what was there
        self._faults = faults
        self._log = log
        self._clock = clock
        self._asked: deque[_Asked] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._looking: set[asyncio.Task[None]] = set()
        self._in_a_row = 0
        self._held_until = 0.0
        self._said = False  # that it fails
        self._say_again_at = float("-inf")
        self.failing: str | None = None

    def is_away(self) -> bool:
        """Whether the last thing asked came to nothing."""
        return self.failing is not None

    async def ask(
        self, operation: Operation, commands: Sequence[Command], timeout_s: float, *, is_behind: bool = False
    ) -> list[Any]:
        """Send commands, not as a transaction; return their replies. Raises ``StoreFailed``.

        Of what is written behind, a command that is itself faulty is left out: it would never succeed.
        """
        failing = self._in_a_row >= _FAULTS_IN_A_ROW
        if failing and (operation in _OF_OPENS or self._clock() < self._held_until):
            raise StoreFailed("Valkey is not asked for a moment")
        try:
            replies = await self._replies(commands, timeout_s)
            self._raise(commands, replies, is_behind=is_behind)
        except Exception as exc:  # also what redis-py does not name its own
            self._fault(operation, exc)
            raise StoreFailed(f"Valkey: {type(exc).__name__}") from exc
        self._in_a_row = 0
        self.failing = None
        if self._said:
            self._said = False
            self._log.info(Event.VALKEY_RECOVERED)
        return replies

    def _raise(self, commands: Sequence[Command], replies: Sequence[Any], *, is_behind: bool) -> None:
        """Raise the first reply that is an error, but for what is our own mistake in writing behind."""
        for command, reply in zip(commands, replies, strict=True):
            if is_behind and _is_our_mistake(reply):
                self._log.error(Event.STORE_REFUSED, error=type(reply).__name__, command=str(command[0]))
            elif isinstance(reply, Exception):
                raise reply

    async def note_durability(self) -> None:
        """Say at boot if the server may lose what it acknowledged; one that does not tell is let be.

        In a crash, or when it is full: every key of ours has a TTL, so ``volatile-*`` evicts leads, too.
        """
        command: Command = ("CONFIG", "GET", "append*", "maxmemory-policy")
        try:
            (reply,) = await self.ask("boot", [command], BEHIND_S)
        except StoreFailed:
            return
        if isinstance(reply, dict):
            told = {_text(name): _text(value) for name, value in reply.items()}
        else:
            words = [_text(each) for each in reply]
            told = dict(zip(words[::2], words[1::2], strict=False))
        appendonly, fsync = told.get("appendonly", ""), told.get("appendfsync", "")
        evicts = told.get("maxmemory-policy", "")
        if appendonly and (appendonly, fsync, evicts) != ("yes", "always", "noeviction"):
            about = {"appendonly": appendonly, "appendfsync": fsync, "maxmemory_policy": evicts}
            self._log.warning(Event.VALKEY_NOT_DURABLE, **about)

    def note_lost(self, writes: int) -> None:
        """Say that so many writes were given up while the server was away."""
        self._log.error(Event.VALKEY_LOST, writes=writes)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._senders:
            await asyncio.wait(self._senders, timeout=BEHIND_S)
        with contextlib.suppress(TimeoutError, OSError, RedisError):
            async with asyncio.timeout(BEHIND_S):
                await self._client.aclose()

    async def _replies(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Send commands together with whoever else asks at the moment."""
        asked = _Asked(commands, asyncio.get_running_loop().create_future())
        self._asked.append(asked)
        if len(self._senders) < SENDERS_MAX:
            task = asyncio.create_task(self._send_on())
            self._senders.add(task)
            task.add_done_callback(self._senders.discard)
        for _ in range(_TICKS):
            await asyncio.wait((asked.replies,), timeout=timeout_s / _TICKS)
            if asked.replies.done():
                return asked.replies.result()
        asked.replies.cancel()
        raise TimeoutError

    async def _send_on(self) -> None:
        """Send what is asked until nothing is: in a task of its own: redis-py may swallow a cancellation."""
        while self._asked:
            together: list[_Asked] = []
            size = 0
            while self._asked and size < _BATCH:
                asked = self._asked.popleft()
                if not asked.replies.done():
                    together.append(asked)
                    size += len(asked.commands)
            if not together:
                return
            try:
                async with asyncio.timeout(2 * SOCKET_S):
                    replies = await self._send([each for asked in together for each in asked.commands])
            except Exception as exc:  # noqa: BLE001  whoever asked hears of it
                for asked in together:
                    if not asked.replies.done():
                        asked.replies.set_exception(exc)
                continue
            at = 0
            for asked in together:
                if not asked.replies.done():
                    asked.replies.set_result(replies[at : at + len(asked.commands)])
                at += len(asked.commands)

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        replies = await self._pipe(commands)
        again = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if again:
            spelled_out = [Script.spelled_out(commands[at]) for at in again]
            for at, reply in zip(again, await self._pipe(spelled_out), strict=True):
                replies[at] = reply
        return replies

    async def _pipe(self, commands: Sequence[Command]) -> list[Any]:
        client: Any = self._client  # redis-py leaves these methods untyped
        if len(commands) == 1:
            try:
                return [await client.execute_command(*commands[0])]
            except ResponseError as exc:
                return [exc]
        pipe = client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute(raise_on_error=False))

    def _fault(self, operation: Operation, exc: Exception) -> None:
        self._faults.labels(operation).inc()
        self._in_a_row += 1
        if self._in_a_row >= _FAULTS_IN_A_ROW:
            self._held_until = self._clock() + _HELD_S
        if not self._said and self._clock() >= self._say_again_at:
            self._said = True
            self._say_again_at = self._clock() + _SAY_AGAIN_S
            self._log.error(Event.VALKEY_FAILING, operation=operation, error=type(exc).__name__)
        self.failing = type(exc).__name__
        if isinstance(exc, ReadOnlyError) and isinstance(self._client, Redis):  # a failover: look again
            task = asyncio.create_task(self._client.connection_pool.disconnect(inuse_connections=False))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)


class Script:
    """A Lua script, sent by its digest; the whole text follows where the server does not know it yet."""

    _texts: dict[str, str] = {}  # noqa: RUF012  every script of the process, by digest

    def __init__(self, text: str) -> None:
        self._digest = sha1(text.encode()).hexdigest()  # noqa: S324  Redis' own name for a script
        self._texts[self._digest] = text

    def command(self, key: str, *args: Any) -> Command:
        """Return the command that runs it."""
        return ("EVALSHA", self._digest, 1, key, *args)

    @classmethod
    def spelled_out(cls, command: Command) -> Command:
        """Return the command with the script's text in place of its digest."""
        return ("EVAL", cls._texts[str(command[1])], *command[2:])


class Behind:
    """Writes that nobody waits for: at once, many together, and again until the server takes them."""

    def __init__(self, valkey: Valkey, operation: Operation) -> None:
        self._valkey = valkey
        self._operation: Operation = operation
        self._waiting: deque[tuple[Command, Hear | None]] = deque()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._flushers: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._put = self._sent = 0
        self._failing = False
        self._bytes = 0  # that wait, as far as they were put while the server fails
        self.lost = 0  # since the server failed

    def put(self, *commands: Command, hear: Hear | None = None) -> None:
        """Send these soon, in this order; while the server fails they wait, the oldest forgotten first.

        ``hear`` is called with each reply that is no error.
        """
        for command in commands:
            if self._failing:
                self._bytes += _size_of(command)
            while self._waiting and (len(self._waiting) >= _BEHIND_MAX or self._bytes > _BEHIND_MAX_BYTES):
                oldest, _ = self._waiting.popleft()
                self._bytes = max(self._bytes - _size_of(oldest), 0)
                self._sent += 1
                self.lost += 1
            self._waiting.append((command, hear))
            self._put += 1
        self._wanted.set()

    async def flush(self) -> None:
        """Wait until what was put so far is sent: the next question sees it; not for long.

        Raises ``StoreFailed``.
        """
        if self._sent >= self._put:
            return
        if self._failing:
            raise StoreFailed("Valkey takes no writes at the moment")
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushers.append((self._put, flushed))
        try:
            async with asyncio.timeout(WRITE_S):
                await flushed
        except TimeoutError as exc:
            raise StoreFailed("Valkey takes its time to write") from exc

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Send what waits, if the server takes it now."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            while self._waiting:
                await self._send()
        except StoreFailed:
            return

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while self._waiting:
                    await self._send()
            except StoreFailed as exc:
                self._failing = True
                self._wanted.set()
                while self._flushers:
                    _, flushed = self._flushers.popleft()
                    if not flushed.done():
                        flushed.set_exception(exc)
                await asyncio.sleep(_HELD_S)

    async def _send(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
        commands = [command for command, _ in batch]
        try:
            replies = await self._valkey.ask(self._operation, commands, BEHIND_S, is_behind=True)
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise
        self._failing = False
        self._bytes = 0
        if self.lost:
            self._valkey.note_lost(self.lost)
            self.lost = 0
        self._sent += len(batch)
        for (_, hear), reply in zip(batch, replies, strict=True):
            if hear is not None and not isinstance(reply, Exception):
                hear(reply)
        while self._flushers and self._flushers[0][0] <= self._sent:
            _, flushed = self._flushers.popleft()
            if not flushed.done():
                flushed.set_result(None)


def _as_it_is(response: Any, **_kwargs: Any) -> Any:
    return response


def _is_our_mistake(reply: object) -> bool:
    """Whether a command is refused for what it says, not for how the server is."""
    of_the_server = ("MISCONF", "NOREPLICAS", "UNKILLABLE", "BUSY", "LOADING", "NOPERM", "NOAUTH")
    return type(reply) in (ResponseError, DataError) and not str(reply).startswith(of_the_server)


def _size_of(command: Command) -> int:
    return sum(len(part) for part in command if isinstance(part, str | bytes))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
