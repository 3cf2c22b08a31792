"""Sealing what must be sent later: an address, a User-Agent, an e-mail, a link from a clipboard.

AES-256-GCM under keys that come from FIRSTOPEN_SECRET: its current entry seals, older ones still open. What
can go wrong with GCM is a nonce used twice under one key: so each process seals under a key of its own
(derived with a random salt, which is in each sealed text), with random nonces. Fernet, which needs no such
care, takes six times as long, and an open with a query is sealed before the next one has its turn.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SEALED = b"\x01"  # how what is sealed begins, and neither JSON nor a MessagePack map does

_SALT_BYTES = 16
_NONCE_BYTES = 12
_HEAD_BYTES = len(SEALED) + _SALT_BYTES
_LEAST_BYTES = _HEAD_BYTES + _NONCE_BYTES + 16  # GCM's tag
_CIPHERS_MAX = 256  # of other processes: a restart or a replica each


class Unsealable(Exception):
    """Sealed under a secret that is not among those given, or damaged."""


class Seal:
    """Seals bytes under the first secret; opens what any of them sealed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_key(secret) for secret in secrets]
        self._ciphers: dict[bytes, list[AESGCM]] = {}
        salt = os.urandom(_SALT_BYTES)
        self._head = SEALED + salt
        self._encrypt = self._under(salt)[0].encrypt

    def seal(self, text: bytes) -> bytes:
        """Seal; the result says nothing but its length."""
        nonce = os.urandom(_NONCE_BYTES)
        return self._head + nonce + self._encrypt(nonce, text, None)

    def open(self, sealed: bytes) -> bytes:
        """Open; raises ``Unsealable``."""
        if sealed.startswith(SEALED) and len(sealed) >= _LEAST_BYTES:
            nonce, text = (
                sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES],
                sealed[_HEAD_BYTES + _NONCE_BYTES :],
            )
            for cipher in self._under(sealed[len(SEALED) : _HEAD_BYTES]):
                try:
                    return cipher.decrypt(nonce, text, None)
                except InvalidTag:
                    continue
        raise Unsealable("sealed under another FIRSTOPEN_SECRET, or damaged")

    def _under(self, salt: bytes) -> list[AESGCM]:
        """Return the ciphers of the process with this salt, one for each secret."""
        known = self._ciphers.get(salt)
        if known is None:
            if len(self._ciphers) >= _CIPHERS_MAX:
                self._ciphers.clear()
            keys = (
                blake2b(salt, key=key, digest_size=32, person=b"firstopen.once").digest()
                for key in self._keys
            )
            known = self._ciphers[salt] = [AESGCM(key) for key in keys]
        return known


def _key(secret: str) -> bytes:
    text = secret.encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=32, person=b"firstopen.seal").digest()
