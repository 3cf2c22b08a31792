"""The context of one open: the report and the values derived from it, each computed once."""

from msgspec import UNSET, Struct, UnsetType

from service.domain.deep_links import DeepLink
from service.domain.device_traits import Traits
from service.domain.evidence import EVIDENCE_PRIORITY, EvidenceChain, EvidenceItem, build_chain, evidence_mask
from service.domain.models import App, Open, OpenReport
from service.domain.outbox_entries import QueuedOpen
from service.domain.trace import TraceRecorder


class OpenContext(Struct, gc=False, eq=False):
    """The state of one open while it is decided.

    ``link`` is the deep link; ``own`` says that it is on one of the app's domains. Any other URL that opened
    the app is in ``url``, without Dub's ``dub_id``, and is routed unchanged.
    """

    report: OpenReport
    app: App
    domain: str
    link: DeepLink | None
    own: bool
    device: str
    key: bytes
    is_install: bool  # the device has an installId; else IP address and User-Agent, perhaps of several people
    opened_at: float  # Unix seconds
    url: str | None = None
    dub_id: str | None = None  # the click id in the opened URL, see ``urls.split_dub_id``
    known_chain: EvidenceChain | None = None
    seen_ip: str | UnsetType | None = UNSET
    was_pending: bool = False  # an earlier answer of this open was made without Dub
    repeats: bool = False  # the database has an answer of this open
    replay: bool = False  # created by the outbox: no caller waits for the answer
    earlier: list[Open] | None = None  # the device's opens in the database; None: not queried
    network: int | None = None  # a keyed hash; None: not computed
    traits: Traits | None = None  # the device's, set when certain evidence has found the link

    @property
    def ip(self) -> str | None:
        """Return the device's IP address behind trusted proxies, computed on first access."""
        if self.seen_ip is UNSET:
            self.seen_ip = self.report.caller.ip
        return self.seen_ip

    @property
    def test_device(self) -> str | None:
        """Return the test session of this open. Its opens count in no metric and in no learned rate."""
        return self.report.test_device

    @property
    def is_first_open(self) -> bool:
        """Return True if this is the first open of a new install that may be matched by its address.

        Without ``installedAt``, an update of the app cannot be told from an install. The open of an old
        install is not matched by address, and neither is one without the consent that the app asks for.
        """
        return (
            self.earlier == []
            and self.is_install
            and self.report.installed_at is not None
            and self.test_device is None
            and bool(self.chain.items)
            and self.chain.items[-1].type == "ip"
        )

    @property
    def chain(self) -> EvidenceChain:
        """Return the evidence chain, strongest evidence first, built on first access."""
        if self.known_chain is None:
            self.known_chain = build_chain(
                self.report, self.opened_at, self.domain, self.link, own=self.own, dub_id=self.dub_id
            )
        return self.known_chain

    @property
    def offered(self) -> int:
        """Return the priority of the strongest evidence."""
        return self.chain.offered

    @property
    def first_launch_key(self) -> str:
        """Return the cache key of the install's first launch, which does not depend on the evidence."""
        return self.device  # needs no memory of its own: it is specific to the app, and every open has it

    @property
    def strongest_reportable(self) -> EvidenceItem | None:
        """Return the strongest evidence that the outbox can report later: a link or a click."""
        return next((item for item in self.chain.items if item.type != "ip"), None)

    @property
    def links(self) -> list[tuple[str, str]]:
        """Return the domain and key of every link in the evidence chain."""
        found = (item.link for item in self.chain.items)
        return [(link.domain, link.key) for link in found if link is not None]

    def log_fields(self, open_id: str) -> dict[str, str | None]:
        """Return the log fields that identify this open."""
        return {"app": self.app.name, "open_id": open_id, "platform": self.report.platform}

    def has_stronger_evidence_than(self, known: Open) -> bool:
        """Return True if this report has new evidence, stronger than the evidence of the ``known`` answer."""
        found = EVIDENCE_PRIORITY[known.match.type]
        if found == EVIDENCE_PRIORITY["deep_link"]:
            return False
        return (evidence_mask(self.chain) & ~known.evidence) >> (found + 1) > 0

    def trace_skipped(self, recorder: TraceRecorder) -> None:
        """Record the skipped evidence in the trace."""
        for skipped in self.chain.skipped:
            recorder.add(skipped.type, "skipped", skipped.why)

    def trace_unresolved(self, opened: Open, recorder: TraceRecorder) -> None:
        """Record in the trace how an open was answered without resolving its evidence."""
        self.trace_skipped(recorder)
        if opened.provisional and self.chain.items:
            why = "the budget ended before this evidence could be resolved"
            recorder.add(self.chain.items[0].type, "unavailable", why)

    def queued_open(self, open_id: str, item: EvidenceItem, now: float) -> QueuedOpen:
        """Return the outbox entry to report this open to Dub later with this evidence, or to match it.

        ``now`` is in Unix seconds.
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
            test_device=report.test_device,
        )
