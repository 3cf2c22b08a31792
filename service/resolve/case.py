"""A report with what follows from it: worked out once, used all the way down."""

from msgspec import UNSET, Struct, UnsetType

from service.resolve.errors import ForeignDomain, InvalidField
from service.resolve.evidence import DeepLink, canonical_domain
from service.resolve.identity import answer_key
from service.resolve.ladder import Ladder, Rung, evidence_mask, ladder_of
from service.resolve.model import App, Open, OpenReport
from service.resolve.owed import OwedOpen
from service.resolve.trace import Steps


class Case(Struct, gc=False, eq=False):
    """One open being decided. ``link`` is its deep link; ``own``: on one of the app's domains."""

    report: OpenReport
    app: App
    domain: str
    link: DeepLink | None
    own: bool
    device: str
    key: bytes
    climbed: Ladder | None = None
    seen_ip: str | UnsetType | None = UNSET
    owes: bool = False  # it was answered before, without Dub
    replay: bool = False  # made by the outbox: no caller waits for it
    network: int | None = None  # a keyed hash, once somebody has looked at the address

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
            self.climbed = ladder_of(self.report, self.link if self.own else None, self.domain)
        return self.climbed

    @property
    def offered(self) -> int:
        """Return the strength of its strongest evidence."""
        return self.ladder.offered

    @property
    def first_launch_key(self) -> bytes:
        """Return the key under which the install's first launch is remembered, whatever its evidence."""
        return answer_key(self.app.name, self.device, "first launch")

    @property
    def first_link(self) -> Rung | None:
        """Return its strongest evidence that is a link."""
        return next((rung for rung in self.ladder.rungs if rung.link is not None), None)

    @property
    def links(self) -> list[tuple[str, str]]:
        """Return the domains and keys of all its evidence that is a link."""
        found = (rung.link for rung in self.ladder.rungs)
        return [(link.domain, link.key) for link in found if link is not None]

    def whose(self, open_id: str) -> dict[str, str | None]:
        """Say in a log line whose open it is."""
        return {"app": self.app.name, "open_id": open_id, "platform": self.report.platform}

    def says_more_than(self, known: Open) -> bool:
        """Whether this report has evidence that one remembered had not: its "none" is no answer then."""
        if known.click_id is not None or known.link is not None or known.pending:
            return False
        return bool(evidence_mask(self.ladder) & ~known.evidence)

    def explain_at_once(self, opened: Open, steps: Steps) -> None:
        """Say what needed no asking."""
        if self.link is not None:
            if not self.own:
                steps.add("deep_link", "skipped", "is on none of this app's domains: routed as it is")
            elif opened.pending:
                steps.add("deep_link", "unavailable", "the budget was over before the open had its turn")
            else:
                steps.add("deep_link", "unknown", "is longer than any link of Dub's")
        if self.own or self.link is None:
            for skipped in self.ladder.skipped:
                steps.add(skipped.evidence, "skipped", skipped.why)

    def owed(self, open_id: str, rung: Rung, now: float) -> OwedOpen:
        """Return what it takes to report this open to Dub later, by this rung's link, or to match it.

        ``now`` is Unix seconds.
        """
        report = self.report
        return OwedOpen(
            open_id=open_id,
            app=self.app.name,
            key=self.key,
            device=self.device,
            evidence=rung.evidence,
            deep_link=rung.link.url if rung.link else "",
            no_track=rung.link is not None and rung.link.no_track,
            user_agent=report.caller.user_agent,
            ip=self.ip,
            by_address=self.ladder.rungs[-1].link is None,
            arrived=now,
            platform=report.platform,
            app_version=report.app_version,
        )


def own_domain(app: App, domain: str | None) -> str:
    """Return the domain asked for, or the app's first; raises ``InvalidField`` or ``ForeignDomain``."""
    if domain is None:
        return app.domains[0]
    if not domain.strip():
        raise InvalidField("dubDomain", "must not be blank")
    canonical = canonical_domain(domain)
    if canonical not in app.domains:
        raise ForeignDomain("dubDomain: is not one of this app's domains")
    return canonical
