"""Encrypt stored data that may be personal, such as addresses, User-Agents, e-mail addresses and links.

AES-256-GCM with keys derived from FIRSTOPEN_SECRET: the current secret encrypts, the older ones still
decrypt. GCM must never use a nonce twice with one key. Therefore each process has its own key, derived with a
random salt that is stored in each ciphertext, and nonces are random. Fernet avoids this problem, but takes
six times as long.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ENCRYPTED = b"\x01"  # first byte of a ciphertext; neither JSON nor a MessagePack map begins with it

_SALT_BYTES = 8  # if two processes chose the same salt, their random nonces would still differ
_NONCE_BYTES = 12
_NONCES_AT_A_TIME = 64  # a system call for each nonce would take a third of an encryption
_HEAD_BYTES = len(ENCRYPTED) + _SALT_BYTES
_LEAST_BYTES = _HEAD_BYTES + _NONCE_BYTES + 16  # GCM's tag
_CIPHERS_MAX = 256  # of other processes: one per restart and replica


class Undecryptable(Exception):
    """The data was encrypted with a secret that is not listed, or is damaged."""


class Cipher:
    """Encrypts with the first secret; decrypts with any of the secrets."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [_key(secret) for secret in secrets]
        self._ciphers: dict[bytes, list[AESGCM]] = {}
        salt = os.urandom(_SALT_BYTES)
        self._head = ENCRYPTED + salt
        self._seal = self._under(salt)[0].encrypt
        self._nonces: list[bytes] = []

    def encrypt(self, text: bytes) -> bytes:
        """Return the encrypted text."""
        if not self._nonces:
            pool = os.urandom(_NONCE_BYTES * _NONCES_AT_A_TIME)
            self._nonces = [pool[at : at + _NONCE_BYTES] for at in range(0, len(pool), _NONCE_BYTES)]
        nonce = self._nonces.pop()
        return self._head + nonce + self._seal(nonce, text, None)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the decrypted text; raises ``Undecryptable``."""
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
        raise Undecryptable("encrypted with another FIRSTOPEN_SECRET, or damaged")

    def _under(self, salt: bytes) -> list[AESGCM]:
        """Return the ciphers for a process's salt, one per secret."""
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
