"""Core types: what an app reports (``OpenReport``), what is stored (``Open``), what is answered (``Answer``).

``Answer`` is also the JSON of the response (camelCase, as at Dub). An ``Open`` contains no route: the route
is computed for each report, because a repeat from a newer app version may land on another screen.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.domain.deep_links import DeepLink
from service.domain.device_identity import Platform, TrustedProxies
from service.domain.gate import Gate, Gates
from service.domain.match_odds import NO_SIGNALS, Signals
from service.domain.routing import Route, Router
from service.domain.short_links import LinkTemplate

if TYPE_CHECKING:
    from service.domain.ports import RateLimitCheck

BUDGET_MIN_MS, BUDGET_MAX_MS = 100, 10_000

MatchType = Literal["deep_link", "dub_id", "install_referrer", "clipboard", "touch", "ip", "none"]
Source = Literal["dub", "cache", "stale", "parsed"]
MatchReason = Literal[
    "off",
    "no_address",
    "private_address",
    "shared_network",
    "unknown_platform",
    "no_click",
    "no_candidate",
    "crowd",
    "several_links",
    "unlikely",
    "no_events",
    "not_recorded",
    "old_install",
    "superseded",
]


class App(Struct, frozen=True, eq=False):
    """One app's settings, compiled at start. ``domains`` are canonical (lower case, no ``www.``)."""

    name: str
    domains: tuple[str, ...]
    router: Router
    trusts_forwarded_ip: bool = False
    clients_report_leads: bool = False
    dub_api_key: str = ""
    analytics_calls_per_s: int = 2
    ip_matching: Literal["on", "off", "consented"] = "on"
    touch_signals: Literal["off", "on", "consented"] = "off"
    window_s: int = 3600  # maximum age of a click or touch
    first_launch_max_age_s: float = 259_200
    webhook_events: frozenset[str] = frozenset()
    schemes: tuple[str, ...] = ()
    link_templates: Mapping[str, LinkTemplate] = {}
    gates: Gates | None = None  # None: no build is held
    matching: bool = True  # False: no click is matched by touch or IP address, whatever ``ip_matching`` is

    def __repr__(self) -> str:
        """Return the app's name only, so that no secret is printed."""
        return f"App({self.name})"


class Link(Struct, frozen=True, gc=False):
    """A link as Dub describes it. ``url`` is its destination, None if it must not be shown to clients."""

    id: str
    domain: str
    key: str
    url: str | None


class Match(Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """Which evidence found the click, and whether it is certain. Matches by IP address have a confidence."""

    type: MatchType
    guaranteed: bool
    candidates: int | UnsetType = UNSET
    age_s: int | UnsetType = UNSET  # of the click, when the app was opened
    confidence: float | UnsetType = UNSET  # 0 to 1
    reason: MatchReason | UnsetType = UNSET  # why an open without a link has no click


BY_DEEP_LINK = Match("deep_link", guaranteed=True)
BY_DUB_ID = Match("dub_id", guaranteed=True)
BY_REFERRER = Match("install_referrer", guaranteed=True)
BY_DOUBTFUL_REFERRER = Match("install_referrer", guaranteed=False)
BY_CLIPBOARD = Match("clipboard", guaranteed=True)
NO_MATCH = Match("none", guaranteed=False)
OLD_INSTALL = Match("none", guaranteed=False, reason="old_install")
SUPERSEDED = Match("none", guaranteed=False, reason="superseded")


class Caller(Struct, frozen=True, gc=False):
    """The sender of a request: the app that the key belongs to, and the device's connection data."""

    app: App
    peer: str | None
    forwarded_for: str
    user_agent: str
    arrived: float  # monotonic seconds
    proxies: TrustedProxies
    rate_limit: "RateLimitCheck | None" = None  # None: this request is not counted

    async def check_rate_limit(self) -> None:
        """Count this request against its rate limit, if there is one; raises ``RateLimited``."""
        if self.rate_limit is not None:
            await self.rate_limit.check(self.ip)

    @property
    def ip(self) -> str | None:
        """Return the device's IP address behind trusted proxies, computed on each access."""
        return self.proxies.client_ip(self.peer, self.forwarded_for)


class OpenReport(Struct, frozen=True, gc=False, kw_only=True):
    """An app's report that it was opened. Fields are validated before this is built; None means absent."""

    caller: Caller
    deep_link: str | None = None
    link: DeepLink | None = None  # ``deep_link`` as parsed
    install_referrer: str | None = None
    clipboard: str | None = None
    domain: str | None = None
    install_id: str | None = None
    platform: Platform | None = None
    app_version: str | None = None
    budget_ms: int
    consent: bool | None = None
    installed_at: float | None = None  # Unix seconds, by the device's clock
    referrer_clicked_at: float | None = None  # Unix seconds, Google Play's time of the click
    install_began_at: float | None = None  # Unix seconds, Google Play's time of the install's start
    test_device: str | None = None  # the name of an active test session
    signals: Signals = NO_SIGNALS
    ignored: tuple[str, ...] = ()  # wire names of fields that were sent and cannot be used


class Open(Struct, frozen=True, gc=False, kw_only=True):
    """An open as it is cached and stored: the decision without its route."""

    app: str
    open_id: str
    device: str  # a keyed hash: 16 hex characters
    click_id: str | None = None
    link: Link | None = None
    url: str | None = None  # the URL that opened the app, if it is not a Dub link: it is routed unchanged
    carried: str = ""  # query and fragment of the clicked link, see ``DeepLink.carried``
    match: Match = NO_MATCH
    source: Source = "parsed"
    provisional: bool = (
        False  # answered without Dub or the database: decided again when the app reports it again
    )
    looking: bool = False  # its click may still appear: further match attempts are scheduled
    credited_to: str | None = None  # if this open has no click: openId of the install's open that has one
    app_version: str | None = None
    platform: Platform | None = None
    test_device: str | None = None  # the name of its test session
    offered: int = 0  # the priority of the strongest evidence, see ``evidence.EVIDENCE_PRIORITY``
    evidence: int = 0  # the evidence types as a bit mask, see ``evidence.evidence_mask``
    opened_at: float  # Unix seconds
    repeat_until: float  # monotonic seconds

    @property
    def is_test(self) -> bool:
        """Return True if this is the open of a test device."""
        return self.test_device is not None

    @property
    def pending(self) -> bool:
        """Return True while the answer of this open may still change."""
        return self.provisional or self.looking

    @property
    def destination(self) -> str | None:
        """Return the URL to route: the URL that opened the app, else the clicked link's destination."""
        if self.url is not None:
            return self.url
        return None if self.link is None else self.link.url


class Answer(Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """The screen to show for an open, and the click that led to it."""

    open_id: str
    click_id: str | None
    link: Link | None
    route: Route
    match: Match
    gate: Annotated[
        Gate | None,
        Meta(
            description="Not null: the app must show this screen, because the build is too old or all wait."
        ),
    ]
    source: Source
    pending: Annotated[bool, Meta(description="true: the answer may still improve. false: it is final.")]
    retry_after_ms: Annotated[
        int | UnsetType,
        Meta(description="Only if pending is true: after how many milliseconds to ask for the open again."),
    ] = UNSET
    repeat: bool


class OpenedLink(Struct, frozen=True, gc=False):
    """Dub's answer to a reported open."""

    click_id: str | None
    link: Link | None


def uses_up(certain: Open, click_id: str, link: Link | None) -> bool:
    """Return True if an IP match's click agrees with the ``certain`` open: same link or same click."""
    same_link = certain.link is not None and link is not None and certain.link.id == link.id
    return same_link or certain.click_id == click_id
