"""The bodies that go to Dub and come back, by its published page for ``POST /track/open``."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder

from service.resolve.model import OpenedLink


class TrackOpen(Struct, rename="camel", frozen=True, omit_defaults=True):
    """The body of ``POST /track/open``."""

    deep_link: str | None = None
    dub_domain: str | None = None


class _Error(Struct, frozen=True):
    code: str


class DubError(Struct, frozen=True):
    """The body of every error: ``{"error": {"code", "message", "doc_url"}}``."""

    error: _Error


encode = Encoder().encode
decode_opened = Decoder(OpenedLink).decode
decode_error = Decoder(DubError).decode
