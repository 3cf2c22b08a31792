"""A report with what follows from it: worked out once, used all the way down."""

from msgspec import Struct

from service.resolve.errors import ForeignDomain, InvalidField
from service.resolve.evidence import DeepLink, canonical_domain
from service.resolve.model import App, OpenReport
from service.resolve.owed import OwedOpen


class Case(Struct, frozen=True, gc=False):
    """One open being decided."""

    report: OpenReport
    app: App
    link: DeepLink | None
    device: str
    key: bytes

    def owed(self, open_id: str) -> OwedOpen:
        """Return what it takes to report this open to Dub later."""
        report = self.report
        return OwedOpen(
            open_id=open_id,
            app=self.app.name,
            key=self.key,
            device=self.device,
            deep_link=report.deep_link or "",
            user_agent=report.caller.user_agent,
            ip=report.caller.ip if self.app.trusts_forwarded_ip else None,
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
