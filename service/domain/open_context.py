"""A report with what follows from it: worked out once, used all the way down."""

from msgspec import UNSET, Struct, UnsetType

from service.domain.deep_links import DeepLink
from service.domain.device_traits import Traits
from service.domain.evidence import EVIDENCE_PRIORITY, EvidenceChain, EvidenceItem, build_chain, evidence_mask
from service.domain.models import App, Open, OpenReport
from service.domain.outbox_entries import QueuedOpen
from service.domain.trace import TraceRecorder


class OpenContext(Struct, gc=False, eq=False):
    """One open being decided.

    ``link`` is its deep link; ``own``: on one of the app's domains. Any other URL that the app was opened
    with is ``url``, which is routed as it is (without the ``dub_id`` that Dub added).
    """

    report: OpenReport
    app: App
    domain: str
    link: DeepLink | None
    own: bool
    device: str
    key: bytes
    is_install: bool  # by its installId; else an address and a User-Agent, which may be several people's
    opened_at: float  # Unix seconds
    url: str | None = None
    dub_id: str | None = None  # the click that the opened URL names, see ``urls.split_dub_id``
    known_chain: EvidenceChain | None = None
    seen_ip: str | UnsetType | None = UNSET
    was_pending: bool = False  # it was answered before, without Dub
    repeats: bool = False  # the database knew its answer
    replay: bool = False  # made by the outbox: no caller waits for it
    earlier: list[Open] | None = None  # of its device, as the database knows them; None: nobody has asked
    network: int | None = None  # a keyed hash, once somebody has looked at the address
    traits: Traits | None = None  # of the device, once a link that is certain has been found for it

    @property
    def ip(self) -> str | None:
        """Return the device's address behind trusted proxies; worked out when it is first asked for."""
        if self.seen_ip is UNSET:
            self.seen_ip = self.report.caller.ip
        return self.seen_ip

    @property
    def chain(self) -> EvidenceChain:
        """Return its evidence, strongest first; sorted when it is first asked for."""
        if self.known_chain is None:
            self.known_chain = build_chain(
                self.report, self.opened_at, self.domain, self.link, own=self.own, dub_id=self.dub_id
            )
        return self.known_chain

    @property
    def offered(self) -> int:
        """Return the strength of its strongest evidence."""
        return self.chain.offered

    @property
    def first_launch_key(self) -> str:
        """Return the key under which the install's first launch is remembered, whatever its evidence."""
        return self.device  # a hash for this app alone, which its opens hold anyway

    @property
    def first_to_report(self) -> EvidenceItem | None:
        """Return its strongest evidence that can be reported later: a link or a click."""
        return next((item for item in self.chain.items if item.type != "ip"), None)

    @property
    def links(self) -> list[tuple[str, str]]:
        """Return the domains and keys of all its evidence that is a link."""
        found = (item.link for item in self.chain.items)
        return [(link.domain, link.key) for link in found if link is not None]

    def log_fields(self, open_id: str) -> dict[str, str | None]:
        """Say in a log line whose open it is."""
        return {"app": self.app.name, "open_id": open_id, "platform": self.report.platform}

    def says_more_than(self, known: Open) -> bool:
        """Return True if this report has evidence that is stronger than what found the remembered answer."""
        found = EVIDENCE_PRIORITY[known.match.type]
        if found == EVIDENCE_PRIORITY["deep_link"]:
            return False
        return (evidence_mask(self.chain) & ~known.evidence) >> (found + 1) > 0

    def explain_skipped(self, recorder: TraceRecorder) -> None:
        """Say in a trace which evidence is none."""
        for skipped in self.chain.skipped:
            recorder.add(skipped.type, "skipped", skipped.why)

    def explain_at_once(self, opened: Open, recorder: TraceRecorder) -> None:
        """Say in a trace what needed no asking."""
        self.explain_skipped(recorder)
        if opened.provisional and self.chain.items:
            why = "the budget was over before the open had its turn"
            recorder.add(self.chain.items[0].type, "unavailable", why)

    def queued_open(self, open_id: str, item: EvidenceItem, now: float) -> QueuedOpen:
        """Return what it takes to report this open to Dub later, by this item's link, or to match it.

        ``now`` is Unix seconds.
        """
        report, link = self.report, item.link
        if link is None and self.own:
            link = self.link
        return QueuedOpen(
            open_id=open_id,
            app=self.app.name,
            key=self.key,
            device=self.device,
            evidence=item.type,
            deep_link=link.url if link else "",
            url=self.url,
            click_id=item.click_id,
            doubt=item.doubt,
            is_install=self.is_install,
            installed_at=report.installed_at,
            no_track=link is not None and link.no_track,
            user_agent=report.caller.user_agent,
            ip=self.ip,
            by_address=self.chain.items[-1].type == "ip",
            arrived=now,
            platform=report.platform,
            app_version=report.app_version,
        )
