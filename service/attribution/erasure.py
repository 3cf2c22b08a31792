"""Forgets an install, everywhere: a person may ask for it."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from service.attribution.delayed_matching import SecondLooks
from service.attribution.recent_erasures import Erasures
from service.domain.device_identity import Identity
from service.domain.errors import StoreFailed
from service.domain.models import App
from service.domain.ports import Erasable, ErasableOpens


class Forgotten(Struct, frozen=True):
    """How much was removed: answers that were remembered, clicks that were claimed, what was owed to Dub."""

    answers: int
    claims: int
    outbox: int


class Forgetting:
    """Forgets installs under every name that they have had."""

    def __init__(
        self,
        *,
        identity: Identity,
        looks: SecondLooks,
        opens: ErasableOpens,
        claims: Erasable,
        entries: Erasable,
        erasures: Erasures,
        wall: Callable[[], float],
        scrub: Callable[[], Awaitable[None]],
    ) -> None:
        self._erasures = erasures
        self._wall = wall
        self._scrub = scrub  # removes deleted rows from the database's own files
        self._identity = identity
        self._looks = looks
        self._opens = opens
        self._claims = claims
        self._entries = entries

    async def forget(self, app: App, install_id: str) -> Forgotten:
        """Forget an install of this app; an unknown one is nothing to forget. Raises ``StoreFailed``.

        Its opens go last: asked again after a failure, what is owed by their ids is still found.
        """
        devices = self._identity.devices(app.name, install_id)
        await self._erasures.add(devices, self._wall())
        forgotten = await self._forget(devices)
        await self._scrub()
        return forgotten

    async def sweep(self, device: str) -> None:
        """Delete what an open that was under way left behind; never raises: a later erasure finds it, too."""
        with contextlib.suppress(StoreFailed):
            await self._forget([device])

    async def _forget(self, devices: Sequence[str]) -> Forgotten:
        open_ids = await self._opens.ids(devices)
        await self._looks.forget(open_ids)
        outbox = await self._entries.forget([*devices, *open_ids])
        claims = await self._claims.forget(devices)
        answers = await self._opens.forget(devices)
        return Forgotten(answers, claims, outbox)
