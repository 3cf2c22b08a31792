"""Sealing what must be sent later: an address, a User-Agent, an e-mail, a link from a clipboard.

The keys come from FIRSTOPEN_SECRET: its current entry seals, older ones still open.
"""

import base64
from collections.abc import Sequence
from hashlib import blake2b

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class Unsealable(Exception):
    """Sealed under a secret that is not among those given, or damaged."""


class Seal:
    """Seals bytes under the first secret; opens what any of them sealed."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(_key(secret)) for secret in secrets])

    def seal(self, text: bytes) -> bytes:
        """Seal; the result says nothing but its length."""
        return self._fernet.encrypt(text)

    def open(self, sealed: bytes) -> bytes:
        """Open; raises ``Unsealable``."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken as exc:
            raise Unsealable("sealed under another FIRSTOPEN_SECRET, or damaged") from exc


def _key(secret: str) -> bytes:
    digest = blake2b(secret.encode("utf-8", "surrogateescape"), digest_size=32, person=b"firstopen.seal")
    return base64.urlsafe_b64encode(digest.digest())
