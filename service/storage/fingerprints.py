"""Which secrets the database's data was written under.

Hashes are keyed and payloads encrypted under FIRSTOPEN_SECRET. A process that starts with another secret
finds no install again and can decrypt nothing, and nothing would say so. So each current secret leaves a
fingerprint in the database, and a start that does not list a secret which data may still need is refused.

A secret counts from the first start with it until ``kept_s`` seconds after another one has replaced it: until
everything that was written under it has been deleted. ``forget`` ends that early, for a secret that is lost.

What can go wrong: two replicas start on a new database with different secrets (each looks and adds under one
row's lock: the second one is refused); a fingerprint helps to guess a secret (a secret has 32 characters or
more, and every ciphertext beside it would serve a guesser as well).
"""

from collections.abc import Sequence
from hashlib import blake2b

from msgspec import Struct

from service.storage.engines.port import Engine
from service.storage.errors import SecretNotListed, StatementRejected
from service.storage.migrate import LOCK
from service.storage.statements import Statement, Values, placeholders

_KNOWN = "SELECT fingerprint, first_used_at, replaced_at FROM secrets"


class KnownSecret(Struct, frozen=True):
    """A secret by its fingerprint, with Unix milliseconds; ``replaced_at`` is None for the current one."""

    fingerprint: str
    first_used_at: int
    replaced_at: int | None


def fingerprint(secret: str) -> str:
    """Return 16 hex characters that tell secrets apart and do not reveal them."""
    text = secret.encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=8, person=b"firstopen.secret").hexdigest()


class SecretCheck:
    """Compares ``secrets``, the current one first, with those that the database knows."""

    def __init__(self, secrets: Sequence[str], kept_s: float) -> None:
        self._listed = tuple(fingerprint(secret) for secret in secrets)
        self._kept_ms = int(kept_s * 1000)

    async def verify(self, engine: Engine) -> None:
        """Note that the first secret is current now.

        Raises ``EngineUnavailable``, or ``SecretNotListed`` if data may be under a secret that is not listed.
        """
        current = self._listed[0]
        where, values = self._missing()
        none_missing = f"NOT EXISTS (SELECT 1 FROM secrets WHERE {where})"  # noqa: S608  placeholders
        add = f"""INSERT INTO secrets (fingerprint, first_used_at, replaced_at)
            SELECT CAST(? AS TEXT), {{now_ms}}, CAST(NULL AS BIGINT) WHERE {none_missing}
            ON CONFLICT (fingerprint) DO UPDATE SET replaced_at = NULL"""
        replace = f"""UPDATE secrets SET replaced_at = {{now_ms}}
            WHERE replaced_at IS NULL AND fingerprint <> ? AND {none_missing}"""  # noqa: S608
        expire = f"""DELETE FROM secrets WHERE replaced_at <= {{now_ms}} - ?
            AND fingerprint NOT IN ({placeholders(len(self._listed))})"""  # noqa: S608
        rows = await engine.commit_alone(
            [
                LOCK,
                Statement(add, (current, *values)),
                Statement(replace, (current, *values)),
                Statement(expire, (self._kept_ms, *self._listed)),
                self._find_missing(),
            ]
        )
        missing = [KnownSecret(*row) for row in rows[-1]]
        if missing:
            raise SecretNotListed(_refusal(missing))

    async def missing(self, engine: Engine) -> list[KnownSecret]:
        """Return the secrets that data may be under and that are not listed; change nothing."""
        (rows,) = await engine.fetch([self._find_missing()])
        return [KnownSecret(*row) for row in rows]

    def _missing(self) -> tuple[str, Values]:
        where = f"""fingerprint NOT IN ({placeholders(len(self._listed))})
            AND (replaced_at IS NULL OR replaced_at > {{now_ms}} - ?)"""
        return where, (*self._listed, self._kept_ms)

    def _find_missing(self) -> Statement:
        where, values = self._missing()
        return Statement(f"{_KNOWN} WHERE {where} ORDER BY first_used_at", values)


async def known_secrets(engine: Engine) -> list[KnownSecret]:
    """Return the secrets that data may be under, oldest first; none if the database was never migrated."""
    try:
        (rows,) = await engine.fetch([Statement(f"{_KNOWN} ORDER BY first_used_at, fingerprint")])
    except StatementRejected:
        return []
    return [KnownSecret(*row) for row in rows]


async def forget_secret(engine: Engine, name: str) -> bool:
    """Give up what is encrypted under a secret, by its fingerprint; return False if it is not known."""
    forget = Statement("DELETE FROM secrets WHERE fingerprint = ? RETURNING 1", (name,))
    (rows,) = await engine.commit_alone([forget])
    return bool(rows)


def _refusal(missing: Sequence[KnownSecret]) -> str:
    names = ", ".join(each.fingerprint for each in missing)
    return (
        f"FIRSTOPEN_SECRET: data in the database was written under a secret that is not listed ({names})."
        " List it after the current one: FIRSTOPEN_SECRET=current,older. If it is lost, give up what only it"
        f" can read: firstopen db forget-secret {missing[0].fingerprint}"
    )
