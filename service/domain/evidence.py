"""What an open has to go by, strongest first: deep link, ``dub_id``, referrer, clipboard, then the address.

What can go wrong: a referrer that is encoded once more than expected, or is a whole store URL; clipboard
text that is somebody's letter, or looks like a link of ours on another host; weaker evidence taken for
stronger. Whatever does not read as a link on one of the app's domains is skipped, and never repeated.
"""

from typing import Literal
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from service.domain.deep_links import DEEP_LINK_MAX_CHARS, DeepLink
from service.domain.errors import InvalidField
from service.domain.match_rules import CLOCK_DIFFERENCE_S
from service.domain.models import App, OpenReport
from service.domain.wrapped_links import find_deep_link

EvidenceType = Literal["deep_link", "dub_id", "install_referrer", "clipboard", "ip"]

EVIDENCE_PRIORITY: dict[str, int] = {
    "deep_link": 5,
    "dub_id": 4,
    "install_referrer": 3,
    "clipboard": 2,
    "ip": 1,
    "none": 0,
}
FIRST_LAUNCH = range(
    EVIDENCE_PRIORITY["ip"], EVIDENCE_PRIORITY["dub_id"]
)  # evidence that counts once per install

_DEEP_LINK = "deepLink"
_STORE_REFERRER = "referrer"
_UNWRAPPINGS = 3  # a store URL, its parameter, and one encoding too many


class EvidenceItem(Struct, frozen=True, gc=False):
    """One piece of evidence that may be asked about: a link, a click (``dub_id``), or else the address."""

    type: EvidenceType
    link: DeepLink | None = None
    click_id: str = ""
    doubt: str = ""  # why it is not certain, although it usually is


class Skipped(Struct, frozen=True, gc=False):
    """Evidence that was given and is none, and why, in words that repeat nothing of it."""

    type: EvidenceType
    why: str


class EvidenceChain(Struct, frozen=True, gc=False):
    """The evidence of an open, strongest first. ``target`` is what the answer's key is made of."""

    items: tuple[EvidenceItem, ...]
    skipped: tuple[Skipped, ...]
    target: str
    old_install: bool = False  # too old for evidence of a first launch

    @property
    def offered(self) -> int:
        """Return the priority of the strongest item."""
        return EVIDENCE_PRIORITY[self.items[0].type] if self.items else 0


_BY_ADDRESS = EvidenceItem("ip")


def evidence_mask(chain: EvidenceChain) -> int:
    """Return which types of evidence a chain has, one bit each."""
    return sum(1 << EVIDENCE_PRIORITY[item.type] for item in chain.items)


def build_chain(
    report: OpenReport,
    opened_at: float,
    domain: str,
    link: DeepLink | None = None,
    *,
    own: bool = False,
    dub_id: str | None = None,
) -> EvidenceChain:
    """Sort what a report says, strongest first.

    ``opened_at`` is Unix seconds. ``link`` is what it opened, ``own`` if that is on one of the app's domains;
    ``dub_id`` is the click that the opened URL names, "" if it is malformed.
    """
    app = report.caller.app
    items: list[EvidenceItem] = []
    skipped: list[Skipped] = []
    if link is not None and not own:
        skipped.append(Skipped("deep_link", "is on none of this app's domains: routed as it is"))
    elif link is not None and len(link.at_dub) > DEEP_LINK_MAX_CHARS:  # once percent-encoded
        skipped.append(Skipped("deep_link", "is longer than any link of Dub's"))
    elif link is not None:
        items.append(EvidenceItem("deep_link", link))
    if dub_id:
        items.append(EvidenceItem("dub_id", click_id=dub_id))
    elif dub_id is not None:
        skipped.append(Skipped("dub_id", "is no clickId: 16 letters and digits"))
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
    """Find the deep link in a Play Install Referrer: bare, encoded again, or within a whole store URL."""
    for _ in range(_UNWRAPPINGS):
        query = text.partition("?")[2] if text.partition("=")[0].count("?") else text
        given = dict(parse_qsl(query, errors="replace"))
        if _DEEP_LINK in given:
            return _decoded(given[_DEEP_LINK])
        inner = given.get(_STORE_REFERRER) or unquote(text, errors="replace")
        if inner == text:  # 8 kB of stray percent signs take 10 ms each time
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
    """Add an item for a link on one of the app's domains; skip anything else, or all if ``why`` is given."""
    if why is not None:
        skipped.append(Skipped(evidence, why))
        return
    try:
        link = find_deep_link(text, app.domains, evidence)
    except InvalidField:
        skipped.append(Skipped(evidence, "holds no link"))
        return
    if link.domain not in app.domains or len(link.at_dub) > DEEP_LINK_MAX_CHARS:
        skipped.append(Skipped(evidence, "is not a link on one of this app's domains"))
    elif any(item.link is not None and item.link.url == link.url for item in items):
        skipped.append(Skipped(evidence, "is the link that stronger evidence holds"))
    else:
        items.append(EvidenceItem(evidence, link, doubt=doubt))


def _decoded(text: str) -> str:
    """Undo encodings that are left over: a link has ``:`` where an encoded one has ``%3A``."""
    for _ in range(_UNWRAPPINGS):
        if "://" in text or "%" not in text:
            break
        text = unquote(text, errors="replace")
    return text


def _why_too_old(report: OpenReport, opened_at: float) -> str | None:
    """Return why an install has had its first launch, whatever it reports; ``None`` if it may be its first.

    An update of the app may introduce its SDK: then installs of any age report a first open, with a referrer
    that Google Play keeps for 90 days.
    """
    if report.installed_at is None:
        return None
    age_s = opened_at - report.installed_at
    if age_s <= report.caller.app.first_launch_max_age_s:
        return None
    return f"the app was installed {age_s / 3600:.0f} hours ago: it is no first launch"


def _why_not_referred(report: OpenReport) -> str | None:
    """Return why a referrer has not led to this install; ``None`` if it may have."""
    clicked, installed = report.referrer_clicked_at, report.installed_at
    if clicked is not None and installed is not None and clicked > installed + CLOCK_DIFFERENCE_S:
        return "its click is later than the install"
    return None


def _why_doubtful(report: OpenReport) -> str:
    """Return what is suspicious about a referrer: fraud clicks once it sees that an install has begun."""
    clicked, began = report.referrer_clicked_at, report.install_began_at
    if clicked is not None and began is not None and clicked > began:
        return "its click is later than the install began"
    return ""


def _why_not_matched(report: OpenReport, *, opened_as_it_is: bool) -> str | None:
    """Return why an open is not matched by its address; ``None`` if it may be.

    An app that is opened through a URL of its own is rarely opened for the first time; only its installId
    tells whether it is.
    """
    match report.caller.app.ip_matching:
        case "off":
            return "matching by address is off for this app"
        case "consented" if report.consent is not True:
            return "matching by address needs consent, and the report has none"
    if opened_as_it_is and report.install_id is None:
        return "the report has no installId, which would tell a first launch from a later one"
    return None
