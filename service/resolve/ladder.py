"""What an open has to go by, strongest first: deep link, ``dub_id``, referrer, clipboard, then the address.

What can go wrong: a referrer that is encoded once more than expected, or is a whole store URL; clipboard
text that is somebody's letter, or looks like a link of ours on another host; weaker evidence taken for
stronger. Whatever does not read as a link on one of the app's domains is skipped, and never repeated.
"""

from typing import Literal
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from service.resolve.errors import InvalidField
from service.resolve.evidence import DEEP_LINK_MAX_CHARS, DeepLink
from service.resolve.model import App, OpenReport
from service.resolve.wrapped_links import find_deep_link

Evidence = Literal["deep_link", "dub_id", "install_referrer", "clipboard", "ip"]

STRENGTH: dict[str, int] = {
    "deep_link": 5,
    "dub_id": 4,
    "install_referrer": 3,
    "clipboard": 2,
    "ip": 1,
    "none": 0,
}
FIRST_LAUNCH = range(STRENGTH["ip"], STRENGTH["dub_id"])  # evidence that counts once per install

_DEEP_LINK = "deepLink"
_STORE_REFERRER = "referrer"
_UNWRAPPINGS = 3  # a store URL, its parameter, and one encoding too many


class Rung(Struct, frozen=True, gc=False):
    """One piece of evidence that may be asked about: a link, a click (``dub_id``), or else the address."""

    evidence: Evidence
    link: DeepLink | None = None
    click_id: str = ""


class Skipped(Struct, frozen=True, gc=False):
    """Evidence that was given and is none, and why, in words that repeat nothing of it."""

    evidence: Evidence
    why: str


class Ladder(Struct, frozen=True, gc=False):
    """The rungs of an open. ``target`` names what it is about, for the answer's key."""

    rungs: tuple[Rung, ...]
    skipped: tuple[Skipped, ...]
    target: str

    @property
    def offered(self) -> int:
        """Return the strength of the strongest rung."""
        return STRENGTH[self.rungs[0].evidence] if self.rungs else 0


_BY_ADDRESS = Rung("ip")


def evidence_mask(ladder: Ladder) -> int:
    """Return which kinds of evidence a ladder has, one bit each."""
    return sum(1 << STRENGTH[rung.evidence] for rung in ladder.rungs)


def ladder_of(
    report: OpenReport,
    domain: str,
    link: DeepLink | None = None,
    *,
    own: bool = False,
    dub_id: str | None = None,
) -> Ladder:
    """Sort what a report says, strongest first.

    ``link`` is what it opened, ``own`` if that is on one of the app's domains; ``dub_id`` is the click that
    the opened URL names, "" if it is malformed.
    """
    app = report.caller.app
    rungs: list[Rung] = []
    skipped: list[Skipped] = []
    if link is not None and not own:
        skipped.append(Skipped("deep_link", "is on none of this app's domains: routed as it is"))
    elif link is not None and len(link.at_dub) > DEEP_LINK_MAX_CHARS:  # once percent-encoded
        skipped.append(Skipped("deep_link", "is longer than any link of Dub's"))
    elif link is not None:
        rungs.append(Rung("deep_link", link))
    if dub_id:
        rungs.append(Rung("dub_id", click_id=dub_id))
    elif dub_id is not None:
        skipped.append(Skipped("dub_id", "is no clickId: 16 letters and digits"))
    if report.install_referrer is not None:
        text = link_in_referrer(report.install_referrer) or report.install_referrer
        _take("install_referrer", text, app, rungs, skipped)
    if report.clipboard is not None:
        _take("clipboard", report.clipboard, app, rungs, skipped)
    if link is not None:
        target = f"link:{link.target if own else link.href}"
    else:
        target = (
            f"{rungs[0].evidence}:{rungs[0].link.target}" if rungs and rungs[0].link else f"first:{domain}"
        )
    if (why := _why_not_matched(report, opened_as_it_is=link is not None and not own)) is None:
        rungs.append(_BY_ADDRESS)
    else:
        skipped.append(Skipped("ip", why))
    return Ladder(tuple(rungs), tuple(skipped), target)


def link_in_referrer(text: str) -> str | None:
    """Find the deep link in a Play Install Referrer: bare, encoded again, or within a whole store URL."""
    for _ in range(_UNWRAPPINGS):
        query = text.partition("?")[2] if text.partition("=")[0].count("?") else text
        given = dict(parse_qsl(query, errors="replace"))
        if _DEEP_LINK in given:
            return _decoded(given[_DEEP_LINK])
        text = given.get(_STORE_REFERRER) or unquote(text, errors="replace")
    return None


def _take(evidence: Evidence, text: str, app: App, rungs: list[Rung], skipped: list[Skipped]) -> None:
    """Add a rung for a link on one of the app's domains; anything else is skipped."""
    try:
        link = find_deep_link(text, app.domains, evidence)
    except InvalidField:
        skipped.append(Skipped(evidence, "holds no link"))
        return
    if link.domain not in app.domains or len(link.at_dub) > DEEP_LINK_MAX_CHARS:
        skipped.append(Skipped(evidence, "is not a link on one of this app's domains"))
    elif any(rung.link is not None and rung.link.url == link.url for rung in rungs):
        skipped.append(Skipped(evidence, "is the link that stronger evidence holds"))
    else:
        rungs.append(Rung(evidence, link))


def _decoded(text: str) -> str:
    """Undo encodings that are left over: a link has ``:`` where an encoded one has ``%3A``."""
    for _ in range(_UNWRAPPINGS):
        if "://" in text or "%" not in text:
            break
        text = unquote(text, errors="replace")
    return text


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
