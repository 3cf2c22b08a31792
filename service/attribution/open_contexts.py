"""Build the context of an open from a report, or from an open in the outbox."""

from collections.abc import Callable

from msgspec import structs

from service.attribution.precedence import devices_of
from service.attribution.recent_erasures import RecentErasures
from service.domain.deep_links import canonical_domain
from service.domain.device_identity import Identity, answer_key
from service.domain.errors import ForeignDomain
from service.domain.evidence import EvidenceChain, EvidenceItem, build_chain
from service.domain.models import App, Open, OpenReport
from service.domain.open_context import OpenContext
from service.domain.outbox_entries import QueuedOpen
from service.domain.urls import DUB_ID, split_dub_id
from service.domain.wrapped_links import ParsedLinks


class OpenContextFactory:
    """Builds open contexts. ``clock`` is monotonic, ``unix_time`` Unix time, both in seconds."""

    def __init__(
        self,
        identity: Identity,
        erasures: RecentErasures,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._erasures = erasures
        self._clock = clock
        self._unix_time = unix_time
        self._links = ParsedLinks()
        self.parse_link = self._links.parse

    def is_erased(self, context: OpenContext) -> bool:
        """Return True if the install was erased after its open began."""
        return self._erasures.covers(context.device, context.opened_at)

    def devices(self, context: OpenContext) -> list[str]:
        """Return the device's hashes, see ``devices_of``."""
        return devices_of(context, self._identity)

    def open_id_after(self, context: OpenContext, known: Open | None) -> str:
        """Return the openId of the context's open; ``known`` is the previous answer under its key."""
        before = known.open_id if known is not None else str(self._erasures.erased_at(context.device) or "")
        return self._identity.open_id(context.key, before)

    def sweep(self, context: OpenContext) -> None:
        """Delete in the background what the open of an erased install has written."""
        self._erasures.sweep(context.device)

    def of(self, report: OpenReport) -> OpenContext:
        """Build the context of a report; raises ``ForeignDomain``."""
        caller = report.caller
        app = caller.app
        domain = own_domain(app, report.domain)
        opened_at = self._unix_time() - (self._clock() - caller.arrived)
        link = report.link
        url = dub_id = chain = None
        own = False
        if link is not None:
            own = link.domain in app.domains
            target = f"link:{link.target if own else link.href}"
            url = link.href
            if DUB_ID in url and (own or app.router.covers(url)):
                url, dub_id = split_dub_id(url)
        else:
            chain = build_chain(report, opened_at, domain)
            target = chain.target
        ip = caller.ip if report.install_id is None else None
        device = self._identity.device(app.name, report.install_id, ip, caller.user_agent)
        return OpenContext(
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
            known_chain=chain,
        )

    def of_queued(self, report: OpenReport, queued: QueuedOpen) -> OpenContext:
        """Build the context of an open in the outbox, with the evidence that Dub has not answered yet."""
        app = report.caller.app
        link = None
        if queued.deep_link:
            link = structs.replace(self._links.parse(queued.deep_link, app.domains), no_track=queued.no_track)
        link_to_ask = None if queued.evidence == "dub_id" else link
        item = EvidenceItem(queued.evidence, link_to_ask, queued.click_id, queued.doubt)
        return OpenContext(
            report=report,
            app=app,
            domain=app.domains[0],
            link=link,
            own=queued.url is None,
            device=queued.device,
            key=queued.key,
            is_install=queued.is_install,
            opened_at=queued.arrived,
            url=queued.url,
            known_chain=EvidenceChain((item, EvidenceItem("ip")) if queued.by_address else (item,), (), ""),
            replay=True,
        )

    def remember(self, context: OpenContext) -> None:
        """Cache the parsed form of a short link that Dub knows."""
        if context.own:
            self._links.remember(context.report.deep_link, context.app.domains, context.link)


def own_domain(app: App, domain: str | None) -> str:
    """Return the requested domain, by default the app's first; raises ``ForeignDomain`` for other domains."""
    if domain is None:
        return app.domains[0]
    if domain in app.domains:
        return domain
    canonical = canonical_domain(domain)
    if canonical not in app.domains:
        raise ForeignDomain("dubDomain: is not one of this app's domains")
    return canonical
