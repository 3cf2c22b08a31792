"""The bodies that go to Dub and come back, by its published page for ``POST /track/open``.

What comes back is bounded here: it is remembered, and goes out to phones.
"""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.json import Decoder, Encoder

from service.resolve.model import Link, OpenedLink

_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Url = Annotated[str, Meta(max_length=32_000)]


class _Link(Struct, frozen=True, gc=False):
    id: _Name
    domain: _Name
    key: _Url
    url: _Url


class _Opened(Struct, frozen=True, rename="camel", gc=False):
    click_id: _Name | None
    link: _Link | None


class _Error(Struct, frozen=True):
    code: str


class DubError(Struct, frozen=True):
    """The body of every error: ``{"error": {"code", "message", "doc_url"}}``."""

    error: _Error


class TrackOpen(Struct, rename="camel", frozen=True, omit_defaults=True):
    """The body of ``POST /track/open``."""

    deep_link: str | None = None
    dub_domain: str | None = None


encode = Encoder().encode
decode_error = Decoder(DubError).decode
_decode_opened = Decoder(_Opened).decode


def decode_opened(body: bytes) -> OpenedLink:
    """Decode the answer to an open; raises ``msgspec.DecodeError`` or ``UnicodeDecodeError``."""
    opened = _decode_opened(body)
    link = opened.link
    return OpenedLink(opened.click_id, Link(link.id, link.domain, link.key, link.url) if link else None)
