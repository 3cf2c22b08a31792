"""Erase an install from all stores, at the person's request."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from service.attribution.delayed_matching import DelayedMatching
from service.attribution.recent_erasures import RecentErasures
from service.attribution.shadow_matching import ShadowMatching
from service.attribution.webhook_events import WebhookEvents
from service.domain.device_identity import Identity
from service.domain.errors import StoreFailed
from service.domain.models import App
from service.domain.ports import Erasable, ErasableOpens


class ErasedCounts(Struct, frozen=True, omit_defaults=True):
    """The numbers of deleted answers, claims, outbox entries, touches and short links."""

    answers: int
    claims: int
    outbox: int
    touches: int
    links: int = 0


class InstallErasure:
    """Erases installs under their hashes of all secrets."""

    def __init__(
        self,
        *,
        identity: Identity,
        delayed_matching: DelayedMatching,
        shadow_matching: ShadowMatching,
        opens: ErasableOpens,
        claims: Erasable,
        touches: Erasable,
        entries: Erasable,
        links: Erasable,
        erasures: RecentErasures,
        webhook_events: WebhookEvents,
        unix_time: Callable[[], float],
        scrub: Callable[[], Awaitable[None]],
    ) -> None:
        self._erasures = erasures
        self._webhook_events = webhook_events
        self._unix_time = unix_time
        self._scrub = scrub  # removes deleted rows from the database's own files
        self._identity = identity
        self._delayed_matching = delayed_matching
        self._shadow_matching = shadow_matching
        self._opens = opens
        self._claims = claims
        self._touches = touches
        self._entries = entries
        self._links = links

    async def forget(self, app: App, install_id: str) -> ErasedCounts:
        """Delete all data of an install of this app; an unknown install has none. Raises ``StoreFailed``.

        Opens are deleted last: if the erasure fails half-way, a retry needs their ids to find outbox entries.
        """
        devices = self._identity.devices(app.name, install_id)
        await self._erasures.add(devices, self._unix_time())
        erased = await self._forget(devices, app)
        await self._scrub()
        return erased

    async def forget_devices(self, devices: Sequence[str]) -> ErasedCounts:
        """Delete all data of test devices, as ``forget`` does of an install; raises ``StoreFailed``.

        No webhook reports it.
        """
        if not devices:
            return ErasedCounts(0, 0, 0, 0)
        await self._erasures.add(devices, self._unix_time())
        erased = await self._forget(devices)
        await self._scrub()
        return erased

    async def sweep(self, device: str) -> None:
        """Delete what an open wrote during an erasure. Never raises: a later erasure deletes it, too."""
        with contextlib.suppress(StoreFailed):
            await self._forget([device])

    async def _forget(self, devices: Sequence[str], app: App | None = None) -> ErasedCounts:
        """Delete all data of devices; if ``app`` is given, queue the webhook that reports it."""
        open_ids = await self._opens.ids(devices)
        await self._delayed_matching.forget(open_ids)
        self._shadow_matching.forget(devices)
        outbox = await self._entries.forget([*devices, *open_ids])
        touches = await self._touches.forget(devices)  # by their claims
        claims = await self._claims.forget(devices)
        links = await self._links.forget(devices)
        if app is not None:
            await self._webhook_events.install_erased(app, devices[0], open_ids)
        answers = await self._opens.forget(devices)
        return ErasedCounts(answers, claims, outbox, touches, links)
