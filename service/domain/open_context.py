"""A report with what follows from it: worked out once, used all the way down."""

from msgspec import UNSET, Struct, UnsetType

from service.domain.deep_links import DeepLink
from service.domain.device_identity import answer_key
from service.domain.device_traits import Traits
from service.domain.evidence import STRENGTH, Ladder, Rung, evidence_mask, ladder_of
from service.domain.models import App, Open, OpenReport
from service.domain.outbox_entries import OwedOpen
from service.domain.trace import Steps


class Case(Struct, gc=False, eq=False):
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
    climbed: Ladder | None = None
    seen_ip: str | UnsetType | None = UNSET
    launch_key: bytes | None = None
    owes: bool = False  # it was answered before, without Dub
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
    def ladder(self) -> Ladder:
        """Return its evidence, strongest first; sorted when it is first asked for."""
        if self.climbed is None:
            self.climbed = ladder_of(
                self.report, self.opened_at, self.domain, self.link, own=self.own, dub_id=self.dub_id
            )
        return self.climbed

    @property
    def offered(self) -> int:
        """Return the strength of its strongest evidence."""
        return self.ladder.offered

    @property
    def first_launch_key(self) -> bytes:
        """Return the key under which the install's first launch is remembered, whatever its evidence."""
        if self.launch_key is None:
            self.launch_key = answer_key(self.app.name, self.device, "first launch")
        return self.launch_key

    @property
    def first_to_report(self) -> Rung | None:
        """Return its strongest evidence that can be reported later: a link or a click."""
        return next((rung for rung in self.ladder.rungs if rung.evidence != "ip"), None)

    @property
    def links(self) -> list[tuple[str, str]]:
        """Return the domains and keys of all its evidence that is a link."""
        found = (rung.link for rung in self.ladder.rungs)
        return [(link.domain, link.key) for link in found if link is not None]

    def whose(self, open_id: str) -> dict[str, str | None]:
        """Say in a log line whose open it is."""
        return {"app": self.app.name, "open_id": open_id, "platform": self.report.platform}

    def says_more_than(self, known: Open) -> bool:
        """Return True if this report has evidence that is stronger than what found the remembered answer."""
        found = STRENGTH[known.match.type]
        if found == STRENGTH["deep_link"]:
            return False
        return (evidence_mask(self.ladder) & ~known.evidence) >> (found + 1) > 0

    def explain_skipped(self, steps: Steps) -> None:
        """Say in a trace which evidence is none."""
        for skipped in self.ladder.skipped:
            steps.add(skipped.evidence, "skipped", skipped.why)

    def explain_at_once(self, opened: Open, steps: Steps) -> None:
        """Say in a trace what needed no asking."""
        self.explain_skipped(steps)
        if opened.provisional and self.ladder.rungs:
            why = "the budget was over before the open had its turn"
            steps.add(self.ladder.rungs[0].evidence, "unavailable", why)

    def owed(self, open_id: str, rung: Rung, now: float) -> OwedOpen:
        """Return what it takes to report this open to Dub later, by this rung's link, or to match it.

        ``now`` is Unix seconds.
        """
        report, link = self.report, rung.link
        if link is None and self.own:
            link = self.link
        return OwedOpen(
            open_id=open_id,
            app=self.app.name,
            key=self.key,
            device=self.device,
            evidence=rung.evidence,
            deep_link=link.url if link else "",
            url=self.url,
            click_id=rung.click_id,
            doubt=rung.doubt,
            is_install=self.is_install,
            installed_at=report.installed_at,
            no_track=link is not None and link.no_track,
            user_agent=report.caller.user_agent,
            ip=self.ip,
            by_address=self.ladder.rungs[-1].evidence == "ip",
            arrived=now,
            platform=report.platform,
            app_version=report.app_version,
        )
