"""Choose the open to which an install's leads are credited."""

from collections.abc import Sequence

from service.domain.device_identity import Identity
from service.domain.evidence import EVIDENCE_PRIORITY
from service.domain.models import App, Open
from service.domain.ports import OpenStore


class LeadCredit:
    """Finds the open to which an install's leads are credited."""

    def __init__(self, open_store: OpenStore, identity: Identity) -> None:
        self._open_store = open_store
        self._identity = identity

    async def open_of(self, app: App, install_id: str) -> Open | None:
        """Return the install's open to credit, see ``open_to_credit``; raises ``StoreFailed``."""
        opens = await self._open_store.of_device(self._identity.devices(app.name, install_id))
        return open_to_credit([each for each in opens if each.app == app.name])


def may_get_click(opened: Open) -> bool:
    """Return True if an open has no click but may still get one."""
    return opened.click_id is None and opened.pending


def open_to_credit(opens: Sequence[Open]) -> Open | None:
    """Return the open to which an install's leads are credited, or None if there are no opens.

    ``opens`` are the install's opens, newest first. The strongest evidence wins, the newest among equals. The
    result may still wait for its click (see ``may_get_click``): then its evidence is stronger than that of
    all clicks found so far, and the lead should wait for it. If it has no click and does not wait for one,
    the install is organic.
    """
    found = max((each for each in opens if each.click_id), key=priority_of, default=None)
    awaited = max((each for each in opens if may_get_click(each)), key=priority_of, default=None)
    if awaited is not None and (found is None or priority_of(awaited) > priority_of(found)):
        return awaited
    return found or next(iter(opens), None)


def priority_of(opened: Open) -> int:
    """Return the priority of the evidence that found the open's click, or may still find it."""
    return EVIDENCE_PRIORITY[opened.match.type] if opened.click_id else opened.offered
