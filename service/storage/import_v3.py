"""Import the database file of a firstopen version before migrations.

Such a ``firstopen.sqlite`` is renamed, copied into the new database before the service accepts requests, and
kept as ``firstopen-v3.sqlite``. Encrypted data is decrypted and encrypted again. Rows that cannot be
decrypted are counted, and remain only in the old file; if no row can be decrypted, FIRSTOPEN_SECRET is a
different one, and the process does not start.

What can go wrong: the process dies during the import (the file is named ``firstopen-v3-importing.sqlite``
until everything is committed, and a row that is copied again is not added again); an earlier firstopen still
writes to the file (both versions lock the folder).
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from service.domain.models import Open
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.engines.sqlite import FILE, lock_folder
from service.storage.errors import EngineUnavailable, ImportFailed, SecretNotListed
from service.storage.hashes import device_name, device_number, to_unsigned
from service.storage.opens import SqlOpenStore
from service.storage.statements import Statement

KEPT_AS = "firstopen-v3.sqlite"
IMPORTING = "firstopen-v3-importing.sqlite"

_VERSIONS = (1, 2, 3)
_AT_A_TIME = 500
_CLAIM = "INSERT INTO claims (click_id, device, claimed_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_ERASURE = "INSERT INTO erasures (device, erased_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
_ENTRY = """INSERT INTO outbox (id, app, kind, state, ordering_key, sequence, depends_on, subject, created_at,
    next_attempt_at, attempts, reason, owner, lease_until, event_key, idempotency_key, body_key, payload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_COLUMNS = 13  # of the old table of entries, without _KEYS
_KEYS = ("event_key", "idempotency_key", "body_key")  # of version 3 only

# A ciphertext is this byte, a salt of 16 bytes, a nonce of 12 bytes, and the text encrypted by AES-256-GCM.
_SEALED = b"\x01"
_SALT_TO, _NONCE_TO = 17, 29

_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class _Undecryptable(Exception):
    """The data was encrypted with a secret that is not listed, or is damaged."""


class OldSecrets:
    """Decrypts data of the old file with any of the secrets."""

    def __init__(self, secrets: Sequence[str]) -> None:
        texts = [secret.encode("utf-8", "surrogateescape") for secret in secrets]
        self._keys = [blake2b(text, digest_size=32, person=b"firstopen.seal").digest() for text in texts]

    def decrypt(self, sealed: bytes) -> bytes:
        """Return the decrypted text; raises ``_Undecryptable``."""
        salt, nonce, text = sealed[1:_SALT_TO], sealed[_SALT_TO:_NONCE_TO], sealed[_NONCE_TO:]
        for key in self._keys:
            once = blake2b(salt, key=key, digest_size=32, person=b"firstopen.once").digest()
            try:
                return AESGCM(once).decrypt(nonce, text, None)
            except (InvalidTag, ValueError):
                continue
        raise _Undecryptable


class Imported(Struct, frozen=True):
    """How many rows were copied; ``undecryptable`` entries and opens remain only in the old file."""

    claims: int
    entries: int
    opens: int
    undecryptable: int


def is_old_file(folder: Path) -> bool:
    """Return True if the folder's database is of an earlier version; raises ``EngineUnavailable``."""
    path = folder / FILE
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            version = file.execute("PRAGMA user_version").fetchone()[0]
            named = file.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone()
    except sqlite3.Error as exc:
        raise EngineUnavailable(f"{type(exc).__name__}: {exc}") from exc
    return version in _VERSIONS and named is not None


def set_aside(folder: Path) -> Path | None:
    """Rename the file of an earlier version; return the file to import, or None if there is none.

    Raises ``DataDirTaken``, ``ImportFailed`` or ``EngineUnavailable``.
    """
    importing = folder / IMPORTING
    if importing.is_file():
        return importing
    if not is_old_file(folder):
        return None
    if (folder / KEPT_AS).exists():
        raise ImportFailed(f"{folder / KEPT_AS} exists from an earlier import: move one of the files away")
    lock = lock_folder(folder / FILE)
    try:
        with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as file:
            file.execute("PRAGMA journal_mode = DELETE").fetchall()  # moves the write-ahead log into the file
        (folder / FILE).rename(importing)
    except (sqlite3.Error, OSError) as exc:
        raise EngineUnavailable(f"{type(exc).__name__}: {exc}") from exc
    finally:
        os.close(lock)
    return importing


def refuse_another_secret(importing: Path, secrets: OldSecrets) -> None:
    """Raise ``SecretNotListed`` if none of the outbox's payloads can be decrypted, or ``ImportFailed``."""
    found = False
    try:
        with closing(sqlite3.connect(importing, isolation_level=None)) as file:
            for (sealed,) in file.execute("SELECT sealed FROM entries WHERE sealed IS NOT NULL"):
                found = True
                try:
                    secrets.decrypt(sealed)
                except _Undecryptable:
                    continue
                return
    except sqlite3.Error as exc:
        raise _unreadable(importing, exc) from exc
    if found:
        raise SecretNotListed(
            f"FIRSTOPEN_SECRET: nothing in {importing} can be decrypted. List the secret with which it was"
            " written, after the current one: FIRSTOPEN_SECRET=current,older. If it is lost, move the file"
            " away"
        )


async def import_old_file(
    importing: Path, database: Database, secrets: OldSecrets, cipher: Cipher
) -> Imported:
    """Copy the file's rows to the database; raises ``ImportFailed`` or ``StoreFailed``."""
    copied = _Import(database, secrets, cipher)
    try:
        with closing(sqlite3.connect(importing, isolation_level=None)) as file:
            await copied.claims(file)
            await copied.entries(file)
            await copied.opens(file)
    except (sqlite3.Error, LookupError) as exc:
        raise _unreadable(importing, exc) from exc
    return Imported(**copied.counts)


def keep(importing: Path) -> None:
    """Rename the imported file, which is kept as a backup."""
    importing.rename(importing.with_name(KEPT_AS))


class _Import:
    """Copies table by table, and counts rows."""

    def __init__(self, database: Database, secrets: OldSecrets, cipher: Cipher) -> None:
        self.counts = {"claims": 0, "entries": 0, "opens": 0, "undecryptable": 0}
        self._database = database
        self._secrets = secrets
        self._cipher = cipher

    async def claims(self, file: sqlite3.Connection) -> None:
        """Copy claims and erasures."""
        for table, sql in (("claims", _CLAIM), ("erasures", _ERASURE)):
            for rows in _rows(file, table):
                await self._database.write(*(Statement(sql, _with_device(row)) for row in rows))
                self.counts["claims"] += len(rows) if table == "claims" else 0

    async def entries(self, file: sqlite3.Connection) -> None:
        """Copy the outbox."""
        for rows in _rows(file, "entries"):
            statements: list[Statement] = []
            for row in rows:
                try:
                    sealed = row["sealed"]
                    payload = None if sealed is None else self._cipher.encrypt(self._secrets.decrypt(sealed))
                except _Undecryptable:
                    self.counts["undecryptable"] += 1
                    continue
                statements += _entry(row, payload)
                self.counts["entries"] += 1
            if statements:
                await self._database.write(*statements)

    async def opens(self, file: sqlite3.Connection) -> None:
        """Copy the opens. Their answers are not repeated: the old expiry was by another process's clock."""
        seen = 0.0
        store = SqlOpenStore(self._database, self._cipher, clock=lambda: 0.0, unix_time=lambda: seen)
        for rows in _rows(file, "opens"):
            for row in rows:
                try:
                    opened = self._open(row)
                except _Undecryptable:
                    self.counts["undecryptable"] += 1
                    continue
                seen = row["seen"]
                network = None if row["network"] is None else to_unsigned(row["network"])
                store.keep(bytes(8), opened, network, None)
                self.counts["opens"] += 1
            await self._database.read_written("SELECT 1")  # waits until these are written

    def _open(self, row: dict[str, Any]) -> Open:
        record: bytes = row["record"]
        plain = self._secrets.decrypt(record) if record.startswith(_SEALED) else record
        try:
            known = {**_decode(plain), "device": device_name(row["device"]), "repeat_until": 0.0}
            return msgspec.convert(known, Open)
        except msgspec.MsgspecError as exc:
            raise _Undecryptable from exc


def _rows(file: sqlite3.Connection, table: str) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows as dicts, in batches."""
    order = "ORDER BY state = 'delivered', seq" if table == "entries" else ""
    cursor = file.execute(f"SELECT * FROM {table} {order}")  # noqa: S608  constants
    names = [column[0] for column in cursor.description]
    while rows := cursor.fetchmany(_AT_A_TIME):
        yield [dict(zip(names, row, strict=True)) for row in rows]


def _with_device(row: dict[str, Any]) -> tuple[object, ...]:
    """Return the values of a claim or an erasure, with the device as a number."""
    click = (row["click_id"],) if "click_id" in row else ()
    return *click, device_number(row["device"]), _ms(row["at"])


def _entry(row: dict[str, Any], payload: bytes | None) -> list[Statement]:
    """Return statements that add an entry; without its keys if an earlier entry has them.

    A delivered entry is not added then.
    """
    columns = tuple(row.values())  # in the order of version 3, where three columns have other names
    if len(columns) != _COLUMNS + (len(_KEYS) if _KEYS[0] in row else 0):
        raise LookupError("entries")
    ordering_key, depends_on, subject = columns[4], columns[5], columns[11]
    head = (
        *(row["id"], row["app"], row["kind"], row["state"], ordering_key, row["seq"], depends_on),
        *(subject, _ms(row["created"]), _ms(row["next_try"]), row["attempts"], row["reason"]),
    )
    keys = tuple(row.get(name) or None for name in _KEYS)
    added = Statement(_ENTRY, (*head, *keys, payload))
    if row["state"] == "delivered":
        return [added]
    return [added, Statement(_ENTRY, (*head, None, None, None, payload))]


def _unreadable(importing: Path, exc: Exception) -> ImportFailed:
    return ImportFailed(f"{importing} cannot be read ({type(exc).__name__}): move it away")


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
