"""Encryption of what must be sent later or may be personal: an address, a User-Agent, an e-mail, a link.

AES-256-GCM under keys derived from FIRSTOPEN_SECRET: its current entry encrypts, the older ones still
decrypt. GCM must never use a nonce twice under one key, so each process encrypts under a key of its own
(derived with a random salt that is stored in each ciphertext), with random nonces. Fernet, which needs no
such care, takes six times as long.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ENCRYPTED = b"\x01"  # a ciphertext's first byte; neither JSON nor a MessagePack map begins so

_SALT_BYTES = 8  # two processes with one salt would share a key, and their nonces are random all the same
_NONCE_BYTES = 12
_NONCES_AT_A_TIME = 64  # asking the system takes a third of an encryption
_HEAD_BYTES = len(ENCRYPTED) + _SALT_BYTES
_LEAST_BYTES = _HEAD_BYTES + _NONCE_BYTES + 16  # GCM's tag
_CIPHERS_MAX = 256  # of other processes: a restart or a replica each


class Undecryptable(Exception):
    """Encrypted under a secret that is not listed, or damaged."""


class Cipher:
    """Encrypts under the first secret; decrypts what was encrypted under any of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_key(secret) for secret in secrets]
        self._ciphers: dict[bytes, list[AESGCM]] = {}
        salt = os.urandom(_SALT_BYTES)
        self._head = ENCRYPTED + salt
        self._seal = self._under(salt)[0].encrypt
        self._nonces: list[bytes] = []

    def encrypt(self, text: bytes) -> bytes:
        """Encrypt bytes."""
        if not self._nonces:
            pool = os.urandom(_NONCE_BYTES * _NONCES_AT_A_TIME)
            self._nonces = [pool[at : at + _NONCE_BYTES] for at in range(0, len(pool), _NONCE_BYTES)]
        nonce = self._nonces.pop()
        return self._head + nonce + self._seal(nonce, text, None)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt; raises ``Undecryptable``."""
        if ciphertext.startswith(ENCRYPTED) and len(ciphertext) >= _LEAST_BYTES:
            nonce, text = (
                ciphertext[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES],
                ciphertext[_HEAD_BYTES + _NONCE_BYTES :],
            )
            for cipher in self._under(ciphertext[len(ENCRYPTED) : _HEAD_BYTES]):
                try:
                    return cipher.decrypt(nonce, text, None)
                except InvalidTag:
                    continue
        raise Undecryptable("encrypted under another FIRSTOPEN_SECRET, or damaged")

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
