"""The bodies of requests to Dub and of its answers, as documented on Dub's page of ``POST /track/open``.

The size of fields in answers is limited here, because they are cached and sent to phones.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct, field
from msgspec.json import Decoder, Encoder

from service.domain.models import Link, OpenedLink
from service.domain.short_links import ShortLink

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
    code: Annotated[str, Meta(max_length=256)]
    message: str = ""  # without a limit: Dub repeats an unknown link in it


class DubError(Struct, frozen=True):
    """The body of every error: ``{"error": {"code", "message", "doc_url"}}``."""

    error: _Error


class _LeadLink(_Link, frozen=True):
    short_link: str = field(name="shortLink")


class _ShortLink(_Link, frozen=True, gc=False):
    short_link: _Url = field(name="shortLink")


class _Click(Struct, frozen=True):
    id: str


class _Lead(Struct, frozen=True):
    click: _Click
    link: _LeadLink | None
    customer: dict[str, Any]


class _Sale(Struct, frozen=True, rename="camel"):
    event_name: str
    customer: dict[str, Any] | None
    sale: dict[str, Any] | None


class TrackOpen(Struct, rename="camel", frozen=True, omit_defaults=True):
    """The body of ``POST /track/open``."""

    deep_link: str | None = None
    dub_domain: str | None = None


encode = Encoder().encode
decode_error = Decoder(DubError).decode
check_lead = Decoder(_Lead).decode
check_sale = Decoder(_Sale).decode
_decode_short_link = Decoder(_ShortLink).decode
_decode_opened = Decoder(_Opened).decode


def decode_short_link(body: bytes) -> ShortLink:
    """Decode a link; raises ``msgspec.DecodeError`` or ``UnicodeDecodeError``."""
    link = _decode_short_link(body)
    return ShortLink(link.id, link.domain, link.key, link.short_link, link.url)


def decode_opened(body: bytes) -> OpenedLink:
    """Decode the answer to an open; raises ``msgspec.DecodeError`` or ``UnicodeDecodeError``."""
    opened = _decode_opened(body)
    link = opened.link
    return OpenedLink(opened.click_id, Link(link.id, link.domain, link.key, link.url) if link else None)
