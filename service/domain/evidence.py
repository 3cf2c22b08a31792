"""Build the evidence chain of an open: deep link, ``dub_id``, install referrer, clipboard, touch, IP address.

The strongest evidence comes first. What can go wrong: a referrer is encoded twice, or is a whole store URL;
clipboard text is private text, or resembles one of the app's links on another host; weaker evidence wins over
stronger. A text that is not a link on one of the app's domains is skipped, and never appears in messages.
"""

from typing import Literal
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from service.domain.deep_links import DEEP_LINK_MAX_CHARS, DeepLink
from service.domain.errors import InvalidField
from service.domain.match_rules import CLOCK_DIFFERENCE_S
from service.domain.models import App, OpenReport
from service.domain.wrapped_links import find_deep_link

EvidenceType = Literal["deep_link", "dub_id", "install_referrer", "clipboard", "touch", "ip"]

EVIDENCE_PRIORITY: dict[str, int] = {
    "deep_link": 6,
    "dub_id": 5,
    "install_referrer": 4,
    "clipboard": 3,
    "touch": 2,
    "ip": 1,
    "none": 0,
}
FIRST_LAUNCH = range(
    EVIDENCE_PRIORITY["ip"], EVIDENCE_PRIORITY["dub_id"]
)  # evidence that counts once per install

_DEEP_LINK = "deepLink"
_STORE_REFERRER = "referrer"
_UNWRAPPINGS = 3  # a store URL, its parameter, and one superfluous encoding


class EvidenceItem(Struct, frozen=True, gc=False):
    """One piece of evidence to resolve: a link, a click (``dub_id``), or the IP address if both are empty.

    Touches are found by the IP address, too, so they have no item of their own.
    """

    type: EvidenceType
    link: DeepLink | None = None
    click_id: str = ""
    doubt: str = ""  # why this item is uncertain, although evidence of its type is usually certain


class Skipped(Struct, frozen=True, gc=False):
    """Evidence that was reported and cannot be used. ``why`` contains nothing of its text."""

    type: EvidenceType
    why: str


class EvidenceChain(Struct, frozen=True, gc=False):
    """The evidence of an open, strongest first. ``target`` is part of the answer's cache key."""

    items: tuple[EvidenceItem, ...]
    skipped: tuple[Skipped, ...]
    target: str
    old_install: bool = False  # too old for evidence of a first launch

    @property
    def offered(self) -> int:
        """Return the priority of the strongest item."""
        return EVIDENCE_PRIORITY[self.items[0].type] if self.items else 0

    @property
    def is_organic(self) -> bool | None:
        """Return whether the install referrer holds no link; None if there is none, or it was skipped."""
        if any(item.type == "install_referrer" for item in self.items):
            return False
        return True if Skipped("install_referrer", _NO_LINK) in self.skipped else None


_BY_ADDRESS = EvidenceItem("ip")
_NO_LINK = "holds no link"


def evidence_mask(chain: EvidenceChain) -> int:
    """Return the evidence types of a chain as a bit mask."""
    mask = 0
    for item in chain.items:
        mask |= 1 << EVIDENCE_PRIORITY[item.type]
    return mask


def build_chain(
    report: OpenReport,
    opened_at: float,
    domain: str,
    link: DeepLink | None = None,
    *,
    own: bool = False,
    dub_id: str | None = None,
) -> EvidenceChain:
    """Build the evidence chain of a report, strongest evidence first.

    ``opened_at`` is in Unix seconds. ``link`` is the URL that was opened; ``own`` says that it is on one of
    the app's domains. ``dub_id`` is the click id in the opened URL, "" if it is malformed.
    """
    app = report.caller.app
    items: list[EvidenceItem] = []
    skipped: list[Skipped] = []
    if link is not None and not own:
        skipped.append(Skipped("deep_link", "is not on one of this app's domains: it is only routed"))
    elif link is not None and len(link.at_dub) > DEEP_LINK_MAX_CHARS:  # once percent-encoded
        skipped.append(Skipped("deep_link", "is longer than any Dub link"))
    elif link is not None:
        items.append(EvidenceItem("deep_link", link))
    if dub_id:
        items.append(EvidenceItem("dub_id", click_id=dub_id))
    elif dub_id is not None:
        skipped.append(Skipped("dub_id", "is not a clickId (16 letters and digits)"))
    old = _why_too_old(report, opened_at)
    if report.install_referrer is not None:
        why = old or _why_not_referred(report)
        text = link_in_referrer(report.install_referrer) or report.install_referrer
        _take("install_referrer", text, app, items, skipped, why=why, doubt=_why_doubtful(report))
    if report.clipboard is not None:
        _take("clipboard", report.clipboard, app, items, skipped, why=old)
    if link is not None:
        target = f"link:{link.target if own else link.href}"
    else:
        target = f"{items[0].type}:{items[0].link.target}" if items and items[0].link else f"first:{domain}"
    why = old or _why_not_matched(report, opened_as_it_is=link is not None and not own)
    if why is None:
        items.append(_BY_ADDRESS)
    else:
        skipped.append(Skipped("ip", why))
    return EvidenceChain(tuple(items), tuple(skipped), target, old is not None)


def link_in_referrer(text: str) -> str | None:
    """Return the deep link in a Play Install Referrer, even if encoded twice or inside a store URL."""
    for _ in range(_UNWRAPPINGS):
        query = text.partition("?")[2] if text.partition("=")[0].count("?") else text
        given = dict(parse_qsl(query, errors="replace"))
        if _DEEP_LINK in given:
            return _decoded(given[_DEEP_LINK])
        inner = given.get(_STORE_REFERRER) or unquote(text, errors="replace")
        if inner == text:  # a further pass would find nothing: 10 ms for 8 kB of stray percent signs
            break
        text = inner
    return None


def _take(
    evidence: EvidenceType,
    text: str,
    app: App,
    items: list[EvidenceItem],
    skipped: list[Skipped],
    *,
    why: str | None,
    doubt: str = "",
) -> None:
    """Add an item if the text holds a link on one of the app's domains, else a skipped one.

    If ``why`` is given, the evidence is skipped for this reason without looking at the text.
    """
    if why is not None:
        skipped.append(Skipped(evidence, why))
        return
    try:
        link = find_deep_link(text, app.domains, evidence)
    except InvalidField:
        skipped.append(Skipped(evidence, _NO_LINK))
        return
    if link.domain not in app.domains or len(link.at_dub) > DEEP_LINK_MAX_CHARS:
        skipped.append(Skipped(evidence, "is not a link on one of this app's domains"))
    elif any(item.link is not None and item.link.url == link.url for item in items):
        skipped.append(Skipped(evidence, "is the same link as in stronger evidence"))
    else:
        items.append(EvidenceItem(evidence, link, doubt=doubt))


def _decoded(text: str) -> str:
    """Percent-decode a link until it contains ``://``, at most three times."""
    for _ in range(_UNWRAPPINGS):
        if "://" in text or "%" not in text:
            break
        text = unquote(text, errors="replace")
    return text


def _why_too_old(report: OpenReport, opened_at: float) -> str | None:
    """Return why an install is too old for a first launch, or None if this may be its first launch.

    An update of the app may introduce firstopen: then installs of any age report a first open, with a
    referrer that Google Play keeps for 90 days.
    """
    if report.installed_at is None:
        return None
    age_s = opened_at - report.installed_at
    if age_s <= report.caller.app.first_launch_max_age_s:
        return None
    return f"the app was installed {age_s / 3600:.0f} hours ago: this is not its first launch"


def _why_not_referred(report: OpenReport) -> str | None:
    """Return why a referrer cannot have led to this install, or None if it may have."""
    clicked, installed = report.referrer_clicked_at, report.installed_at
    if clicked is not None and installed is not None and clicked > installed + CLOCK_DIFFERENCE_S:
        return "its click is later than the install"
    return None


def _why_doubtful(report: OpenReport) -> str:
    """Return what is suspicious about a referrer, or "". Click fraud clicks after the install began."""
    clicked, began = report.referrer_clicked_at, report.install_began_at
    if clicked is not None and began is not None and clicked > began:
        return "its click is later than the install began"
    return ""


def _why_not_matched(report: OpenReport, *, opened_as_it_is: bool) -> str | None:
    """Return why an open must not be matched by its IP address, or None if it may be.

    An app that is opened through a URL outside its Dub domains is rarely opened for the first time. Only
    the installId shows whether it is.
    """
    if not report.caller.app.matching:
        return "matching is switched off (gate.matching = false)"
    match report.caller.app.ip_matching:
        case "off":
            return "matching by IP address is off for this app"
        case "consented" if report.consent is not True:
            return "matching by IP address needs consent, and the report has none"
    if opened_as_it_is and report.install_id is None:
        return "without an installId, a first launch cannot be told from a later one"
    return None
