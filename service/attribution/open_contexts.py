"""From a report, or from an open that is owed to Dub, to the case that is decided."""

from collections.abc import Callable

from msgspec import structs

from service.attribution.precedence import devices_of
from service.attribution.recent_erasures import Erasures
from service.domain.deep_links import canonical_domain
from service.domain.device_identity import Identity, answer_key
from service.domain.errors import ForeignDomain
from service.domain.evidence import Ladder, Rung, ladder_of
from service.domain.models import App, Open, OpenReport
from service.domain.open_context import Case
from service.domain.outbox_entries import OwedOpen
from service.domain.urls import DUB_ID, split_dub_id
from service.domain.wrapped_links import ParsedLinks


class Cases:
    """Builds cases. ``clock`` is monotonic, ``wall`` Unix time, both in seconds."""

    def __init__(
        self,
        identity: Identity,
        erasures: Erasures,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._erasures = erasures
        self._clock = clock
        self._wall = wall
        self._links = ParsedLinks()
        self.parse_link = self._links.parse

    def is_erased(self, case: Case) -> bool:
        """Return True if the case's install was erased since its open began."""
        return self._erasures.covers(case.device, case.opened_at)

    def devices(self, case: Case) -> list[str]:
        """Return what the case's device was called under each secret, as far as that is known."""
        return devices_of(case, self._identity)

    def open_id_after(self, case: Case, known: Open | None) -> str:
        """Return the id of the case's open: the one after ``known``, its key's answer before."""
        before = known.open_id if known is not None else str(self._erasures.erased_at(case.device) or "")
        return self._identity.open_id(case.key, before)

    def sweep(self, case: Case) -> None:
        """Delete, soon, what an open of an erased install has left behind."""
        self._erasures.sweep(case.device)

    def of(self, report: OpenReport) -> Case:
        """Build the case of a report; raises ``ForeignDomain``."""
        caller = report.caller
        app = caller.app
        domain = own_domain(app, report.domain)
        opened_at = self._wall() - (self._clock() - caller.arrived)
        link = report.link
        url = dub_id = ladder = None
        own = False
        if link is not None:
            own = link.domain in app.domains
            target = f"link:{link.target if own else link.href}"
            url = link.href
            if DUB_ID in url and (own or app.router.covers(url)):
                url, dub_id = split_dub_id(url)
        else:
            ladder = ladder_of(report, opened_at, domain)
            target = ladder.target
        ip = caller.ip if report.install_id is None else None
        device = self._identity.device(app.name, report.install_id, ip, caller.user_agent)
        return Case(
            report=report,
            app=app,
            domain=domain,
            link=link,
            own=own,
            device=device,
            key=answer_key(app.name, device, target),
            is_install=report.install_id is not None,
            opened_at=opened_at,
            url=None if own else url,
            dub_id=dub_id,
            climbed=ladder,
        )

    def of_owed(self, report: OpenReport, owed: OwedOpen) -> Case:
        """Build the case of an open that is owed to Dub, with the evidence that is still open."""
        app = report.caller.app
        link = None
        if owed.deep_link:
            link = structs.replace(self._links.parse(owed.deep_link, app.domains), no_track=owed.no_track)
        link_to_ask = None if owed.evidence == "dub_id" else link
        rung = Rung(owed.evidence, link_to_ask, owed.click_id, owed.doubt)
        return Case(
            report=report,
            app=app,
            domain=app.domains[0],
            link=link,
            own=owed.url is None,
            device=owed.device,
            key=owed.key,
            is_install=owed.is_install,
            opened_at=owed.arrived,
            url=owed.url,
            climbed=Ladder((rung, Rung("ip")) if owed.by_address else (rung,), (), ""),
            replay=True,
        )

    def remember(self, case: Case) -> None:
        """Remember how a short link is parsed that Dub knows."""
        if case.own:
            self._links.remember(case.report.deep_link, case.app.domains, case.link)


def own_domain(app: App, domain: str | None) -> str:
    """Return the domain asked for, or the app's first; raises ``ForeignDomain`` for any other."""
    if domain is None:
        return app.domains[0]
    if domain in app.domains:
        return domain
    canonical = canonical_domain(domain)
    if canonical not in app.domains:
        raise ForeignDomain("dubDomain: is not one of this app's domains")
    return canonical
