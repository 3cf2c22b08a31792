"""The public bodies, as the wire contract has them: camelCase, unknown fields ignored, null is absent."""

from typing import Annotated

from msgspec import Meta, Struct

from service.resolve.errors import InvalidField
from service.resolve.evidence import DEEP_LINK_MAX_CHARS, control_free
from service.resolve.identity import Platform, canonical_install_id, platform_of
from service.resolve.model import BY_DEEP_LINK, Answer, Caller, Link, OpenReport
from service.resolve.routing import Route
from service.settings import BUDGET_MAX_MS, BUDGET_MIN_MS

DeepLinkText = Annotated[
    str,
    Meta(
        max_length=DEEP_LINK_MAX_CHARS,
        description="The URL that opened the app. The app lands where it says, also if the credit goes to"
        " other evidence. A `dub_id` in it names its click.",
        examples=["https://acme.link/fb-promo?ref=ig"],
    ),
]
ReferrerText = Annotated[
    str, Meta(max_length=8192, description="The raw string of Android's Play Install Referrer API.")
]
ClipboardText = Annotated[
    str,
    Meta(
        max_length=2048,
        description="Looked at only for a URL on one of the app's domains; never kept, never logged.",
    ),
]
DomainText = Annotated[
    str,
    Meta(
        max_length=253,
        description="One of the app's domains; its first one if left out.",
        examples=["acme.link"],
    ),
]
InstallId = Annotated[
    str,
    Meta(
        min_length=8,
        max_length=128,
        description="Made by the app, stable for this install; makes retries safe, allows IP matching."
        " Placeholders such as all zeros, `undefined` or `null` count as absent; a UUID is one in any case.",
        examples=["8d7e6f5a-1234-4abc-9def-001122334455"],
    ),
]
AppVersion = Annotated[
    str,
    Meta(
        max_length=64,
        description="For routes with a min_version; left out, it is new enough.",
        examples=["2.4.1"],
    ),
]
BudgetMs = Annotated[
    int,
    Meta(
        ge=BUDGET_MIN_MS,
        le=BUDGET_MAX_MS,
        description="How long the launch screen can wait, in milliseconds.",
        examples=[1500],
    ),
]
Timestamp = float | str

_MILLISECONDS_ABOVE = 1e11

EXAMPLE_ANSWER = Answer(
    open_id="0f8fad5bd9cb469fa16570867728950e",
    click_id="d0UtZqE0BZuBPrJS",
    link=Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123"),
    route=Route("product", {"id": "123"}, "https://acme.com/product/123?ref=ig", "matched"),
    match=BY_DEEP_LINK,
    source="dub",
    pending=False,
    repeat=False,
)


class OpenRequest(Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """An app was just opened. At least one of deepLink, installReferrer, clipboard and dubDomain is given."""

    deep_link: DeepLinkText | None = None
    install_referrer: ReferrerText | None = None
    clipboard: ClipboardText | None = None
    dub_domain: DomainText | None = None
    install_id: InstallId | None = None
    platform: Annotated[Platform | None, Meta(description="Read from the User-Agent if left out.")] = None
    app_version: AppVersion | None = None
    budget_ms: BudgetMs | None = None
    consent: Annotated[
        bool | None, Meta(description="For apps that match by IP address only with consent.")
    ] = None
    installed_at: Annotated[
        Timestamp | None,
        Meta(description="When the app was installed: Unix seconds (milliseconds are recognised)."),
    ] = None
    referrer_clicked_at: Annotated[
        Timestamp | None, Meta(description="Google Play's referrerClickTimestampSeconds.")
    ] = None
    install_began_at: Annotated[
        Timestamp | None, Meta(description="Google Play's installBeginTimestampSeconds.")
    ] = None

    def to_report(self, caller: Caller, default_budget_ms: int) -> OpenReport:
        """Check what a type cannot say, and hand over; raises ``InvalidField``.

        The clipboard may hold anything. The deep link is checked where it is parsed, once.
        """
        if self.deep_link is self.install_referrer is self.clipboard is self.dub_domain is None:
            raise InvalidField(
                "deepLink",
                "is required (or one of installReferrer, clipboard and dubDomain: nothing to go by)",
            )
        if self.install_referrer is not None:
            _refuse_controls("installReferrer", self.install_referrer)
        if self.dub_domain is not None:
            _refuse_controls("dubDomain", self.dub_domain)
        if self.install_id is not None:
            _refuse_controls("installId", self.install_id)
        if self.app_version is not None:
            _refuse_controls("appVersion", self.app_version)
        times = {
            "installedAt": self.installed_at,
            "referrerClickedAt": self.referrer_clicked_at,
            "installBeganAt": self.install_began_at,
        }
        read = {name: read_timestamp(given) for name, given in times.items()}
        return OpenReport(
            caller=caller,
            deep_link=self.deep_link,
            install_referrer=self.install_referrer,
            clipboard=self.clipboard,
            domain=self.dub_domain,
            install_id=None if self.install_id is None else canonical_install_id(self.install_id),
            platform=self.platform or platform_of(caller.user_agent),
            app_version=self.app_version,
            budget_ms=default_budget_ms if self.budget_ms is None else self.budget_ms,
            consent=self.consent,
            installed_at=read["installedAt"],
            referrer_clicked_at=read["referrerClickedAt"],
            install_began_at=read["installBeganAt"],
            ignored=tuple(
                name for name, given in times.items() if given not in (None, "") and read[name] is None
            ),
        )


def read_timestamp(given: float | str | None) -> float | None:
    """Return Unix seconds from a number or a numeric string; ``None`` if there is no time in it.

    Values above 1e11 are milliseconds: as seconds they would lie beyond the year 5000. Zero and negative
    values are no times: Google Play's API returns 0 where it does not know.
    """
    try:
        value = float(given or 0)
    except ValueError:
        return None
    seconds = value / 1000 if value > _MILLISECONDS_ABOVE else value
    return seconds if 0 < seconds <= _MILLISECONDS_ABOVE else None


class ProblemDetail(Struct, frozen=True):
    """What went wrong; ``code`` is Dub's, or one of ours where Dub has none."""

    code: Annotated[str, Meta(examples=["unprocessable_entity"])]
    message: Annotated[str, Meta(examples=["customerExternalId: is required"])]
    doc_url: Annotated[str, Meta(examples=["https://dub.co/docs/api-reference/errors#unprocessable-entity"])]


class Problem(Struct, frozen=True):
    """Every error, everywhere: Dub's shape."""

    error: ProblemDetail


def required_install_id(text: str) -> str:
    """Return the canonical form of an installId that a request cannot do without; raises ``InvalidField``."""
    install_id = canonical_install_id(text)
    if install_id is None:
        raise InvalidField("installId", "does not tell installs apart (a placeholder, or too short)")
    return install_id


def _refuse_controls(field: str, text: str) -> None:
    if not control_free(text):
        raise InvalidField(field, "must not contain control characters")
