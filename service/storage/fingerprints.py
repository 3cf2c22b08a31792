"""Check that FIRSTOPEN_SECRET lists every secret that the stored data needs.

FIRSTOPEN_SECRET keys the hashes and encrypts the payloads. A process that starts with another secret would
recognize no install and decrypt nothing, without an error. Therefore the database stores a fingerprint of
each secret, and a process does not start if it does not list a secret that data may still need.

A secret is needed from the first start with it until ``kept_s`` seconds after another one has replaced it,
when all data that was written with it has been deleted. ``forget_secret`` ends that early, for a lost secret.

What can go wrong: two replicas start on a new database with different secrets (each checks and adds under a
row lock, so the second one is refused); a fingerprint helps to guess a secret (a secret has at least 32
characters, and ciphertexts in the database would help an attacker as much).
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
    """A secret's fingerprint, with Unix milliseconds; ``replaced_at`` is None for the current secret."""

    fingerprint: str
    first_used_at: int
    replaced_at: int | None


def fingerprint(secret: str) -> str:
    """Return a hash of 16 hex characters that identifies a secret without revealing it."""
    text = secret.encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=8, person=b"firstopen.secret").hexdigest()


class SecretCheck:
    """Compares ``secrets``, the current one first, with the fingerprints in the database."""

    def __init__(self, secrets: Sequence[str], kept_s: float) -> None:
        self._listed = tuple(fingerprint(secret) for secret in secrets)
        self._kept_ms = int(kept_s * 1000)

    async def verify(self, engine: Engine) -> None:
        """Store that the first secret is the current one.

        Raises ``EngineUnavailable``, or ``SecretNotListed`` if data may need a secret that is not listed.
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
        """Return the secrets that data may need and that are not listed, without a change."""
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
    """Return the secrets that data may need, oldest first; empty if the database was never migrated."""
    try:
        (rows,) = await engine.fetch([Statement(f"{_KNOWN} ORDER BY first_used_at, fingerprint")])
    except StatementRejected:
        return []
    return [KnownSecret(*row) for row in rows]


async def forget_secret(engine: Engine, name: str) -> bool:
    """Delete the fingerprint of a secret, so that it need not be listed; return False if it is unknown."""
    forget = Statement("DELETE FROM secrets WHERE fingerprint = ? RETURNING 1", (name,))
    (rows,) = await engine.commit_alone([forget])
    return bool(rows)


def _refusal(missing: Sequence[KnownSecret]) -> str:
    names = ", ".join(each.fingerprint for each in missing)
    return (
        f"FIRSTOPEN_SECRET: data in the database was written with a secret that is not listed ({names})."
        " List it after the current one: FIRSTOPEN_SECRET=current,older. If it is lost, give up the data that"
        f" only it can decrypt: firstopen db forget-secret {missing[0].fingerprint}"
    )
