"""Placeholder of helper ``matching``: how busy a network is, read from the opens."""

import msgspec

from service.resolve.traits import Traits

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Traits).decode


def encode_traits(traits: Traits) -> str:
    """Write device traits as compact JSON."""
    return _encode(traits).decode()


def decode_traits(text: str) -> Traits:
    """Read device traits; raises ``msgspec.DecodeError``."""
    return _decode(text)
