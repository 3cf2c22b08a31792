"""The public bodies, as the wire contract has them: camelCase, unknown fields ignored, null is absent.

An open is never lost for an optional field: ``lenient_body`` hands fields over that may be of any type, and
``FieldReader`` reads them. The annotations say what should be sent.
"""

from typing import Annotated

from msgspec import Meta, Struct

from service.api.fields import FieldReader, ParseLink
from service.domain.deep_links import DEEP_LINK_MAX_CHARS
from service.domain.device_identity import Platform, canonical_install_id
from service.domain.errors import InvalidField
from service.domain.models import BUDGET_MAX_MS, BUDGET_MIN_MS, BY_DEEP_LINK, Answer, Caller, Link, OpenReport
from service.domain.routing import Route

REFERRER_MAX_CHARS = 8192
CLIPBOARD_MAX_CHARS = 2048
APP_VERSION_MAX_CHARS = 64

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
    str,
    Meta(
        max_length=REFERRER_MAX_CHARS,
        description="The raw string of Android's Play Install Referrer API.",
    ),
]
ClipboardText = Annotated[
    str,
    Meta(
        max_length=CLIPBOARD_MAX_CHARS,
        description="Looked at only for a URL on one of the app's domains; never kept, never logged.",
    ),
]
DomainText = Annotated[
    str,
    Meta(
        max_length=253,
        description="One of the app's domains; its first if left out. Another's is refused with 403.",
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
PlatformName = Annotated[
    Platform,
    Meta(
        description="In any case; read from the User-Agent if left out."
        " Any other text (`macos`, `ohos`) is a platform that firstopen does not know, and is not ignored."
    ),
]
AppVersion = Annotated[
    str,
    Meta(
        max_length=APP_VERSION_MAX_CHARS,
        description="For routes with a min_version; left out, it is new enough.",
        examples=["2.4.1"],
    ),
]
BudgetMs = Annotated[
    int,
    Meta(
        ge=BUDGET_MIN_MS,
        le=BUDGET_MAX_MS,
        description="How long the launch screen can wait, in milliseconds. What lies outside of the bounds is"
        " taken as the nearer bound.",
        examples=[1500],
    ),
]

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
    """An app was just opened. Everything is optional: with nothing given it is a first launch without a link.

    A field that cannot be used (of another type, too long, unreadable) is dropped, and named in the response
    header `Firstopen-Ignored`; it never costs the open. Numbers may arrive as text.
    """

    deep_link: DeepLinkText | None = None
    install_referrer: ReferrerText | None = None
    clipboard: ClipboardText | None = None
    dub_domain: DomainText | None = None
    install_id: InstallId | None = None
    platform: PlatformName | None = None
    app_version: AppVersion | None = None
    budget_ms: BudgetMs | None = None
    consent: Annotated[
        bool | None, Meta(description="For apps that match by IP address only with consent.")
    ] = None
    installed_at: Annotated[
        float | None,
        Meta(description="When the app was installed: Unix seconds (milliseconds are recognised)."),
    ] = None
    referrer_clicked_at: Annotated[
        float | None, Meta(description="Google Play's referrerClickTimestampSeconds.")
    ] = None
    install_began_at: Annotated[
        float | None, Meta(description="Google Play's installBeginTimestampSeconds.")
    ] = None

    def to_report(self, caller: Caller, default_budget_ms: int, parse_link: ParseLink) -> OpenReport:
        """Read each field; ``ignored`` of the report names those that cannot be used. Raises nothing."""
        read = FieldReader()
        app = caller.app
        deep_link, link = read.link("deepLink", self.deep_link, DEEP_LINK_MAX_CHARS, app, parse_link)
        return OpenReport(
            caller=caller,
            deep_link=deep_link,
            link=link,
            install_referrer=read.any_text("installReferrer", self.install_referrer, REFERRER_MAX_CHARS),
            clipboard=read.any_text("clipboard", self.clipboard, CLIPBOARD_MAX_CHARS),
            domain=read.domain("dubDomain", self.dub_domain, app),
            install_id=read.install_id("installId", self.install_id),
            platform=read.platform("platform", self.platform, caller.user_agent),
            app_version=read.version("appVersion", self.app_version, APP_VERSION_MAX_CHARS),
            budget_ms=read.bounded("budgetMs", self.budget_ms, BUDGET_MIN_MS, BUDGET_MAX_MS)
            or default_budget_ms,
            consent=read.boolean("consent", self.consent),
            installed_at=read.timestamp("installedAt", self.installed_at),
            referrer_clicked_at=read.timestamp("referrerClickedAt", self.referrer_clicked_at),
            install_began_at=read.timestamp("installBeganAt", self.install_began_at),
            ignored=tuple(read.ignored),
        )


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
