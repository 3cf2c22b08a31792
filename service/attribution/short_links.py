"""Create short links through Dub, each once.

What can go wrong: many callers ask for one link at the same moment (one call is made for all); two replicas
create it at the same moment, or Dub's answer to an earlier call was lost (Dub refuses a second link with the
same external id, and the first one is looked up); Dub is slow or away (the caller waits for its budget and is
told when to ask again; a link that is created later is stored); an install asks for too many links (its quota
counts over all replicas); an install is erased meanwhile (nothing of it is remembered).
"""

from collections.abc import Callable
from functools import partial

import msgspec
from cachetools import LRUCache
from msgspec import Struct, structs

from service.aio.single_flight import SingleFlight
from service.attribution.recent_erasures import RecentErasures
from service.domain.errors import (
    DubRefused,
    DubThrottled,
    DubUnavailable,
    FirstopenError,
    LinkUnavailable,
    NotConfigured,
    QuotaUsedUp,
    StoreFailed,
)
from service.domain.models import App
from service.domain.ports import KeptLinks, ShortLinkProvider
from service.domain.short_links import ShortLink, WantedLink, day_of
from service.telemetry.background import Background

_REMEMBERED = 10_000  # about 0.5 KB each
_CONFLICT = 409
_NOT_FOUND = 404


class _Remembered(Struct, frozen=True, gc=False):
    device: str | None
    link: ShortLink
    at: float  # Unix seconds


class CreatedLink(ShortLink, frozen=True):
    """A short link. ``repeat``: it was asked for before."""

    repeat: bool = False


class ShortLinks:
    """Creates short links. ``unix_time`` is Unix seconds; a call to Dub takes ``call_s`` seconds at most."""

    def __init__(
        self,
        *,
        dub: ShortLinkProvider,
        kept: KeptLinks,
        erasures: RecentErasures,
        background: Background,
        unix_time: Callable[[], float],
        call_s: float,
    ) -> None:
        self._dub = dub
        self._kept = kept
        self._erasures = erasures
        self._unix_time = unix_time
        self._call_s = call_s
        self._remembered: LRUCache[tuple[str, str], _Remembered] = LRUCache(_REMEMBERED)
        self._flights: SingleFlight[CreatedLink] = SingleFlight(
            partial(background.spawn, name="short_link", expected=FirstopenError)
        )

    async def create(self, app: App, wanted: WantedLink, budget_s: float) -> CreatedLink:
        """Return the link, after it was created at Dub if there is none yet.

        Raises ``QuotaUsedUp``, ``NotConfigured``, ``DubRefused``, ``DubThrottled``, or ``LinkUnavailable``
        if the link is not created within ``budget_s`` seconds.
        """
        name = wanted.identity[0]
        known = self._remembered.get((app.name, name))
        if known is not None and not self._is_erased(known.device, known.at):
            return _created(known.link, repeat=True)
        key = f"{app.name}\0{name}".encode()
        flight = self._flights.under_way(key)
        joined = flight is not None
        if flight is None:
            flight = self._flights.launch(key, name, self._create(app, wanted))
        try:
            created = await flight.wait(budget_s)
        except DubThrottled:
            raise
        except (DubUnavailable, StoreFailed) as exc:
            raise LinkUnavailable(str(exc)) from exc
        if created is None:
            raise LinkUnavailable("Dub has not answered in time")
        return structs.replace(created, repeat=True) if joined else created

    async def close(self, grace_s: float) -> None:
        """Wait up to ``grace_s`` seconds for the links that are being created."""
        await self._flights.close(grace_s)

    async def _create(self, app: App, wanted: WantedLink) -> CreatedLink:
        began = self._unix_time()
        stored = await self._kept.find(app.name, wanted.identity)
        if stored is not None and stored.link is not None:
            return self._remember(app, wanted, began, _created(stored.link, repeat=True))
        if not app.dub_api_key:
            raise NotConfigured(f"apps.{app.name}.dub_api_key_env: no Dub API key is set for this app")
        name, asked_at = wanted.identity[0], began
        if stored is None:
            await self._kept.add(app.name, name, wanted.device, wanted.template, began)
        else:
            name, asked_at = stored.name, stored.created_at
        await self._check_quota(app, wanted, name, asked_at)
        try:
            created = await self._at_dub(app, wanted)
        except DubRefused:
            await self._kept.give_up(app.name, name)
            raise
        await self._kept.complete(app.name, name, created)
        if self._is_erased(wanted.device, began):
            self._erasures.sweep(str(wanted.device))
        return self._remember(app, wanted, began, created)

    async def _check_quota(self, app: App, wanted: WantedLink, name: str, asked_at: float) -> None:
        """Raise ``QuotaUsedUp`` if the install has asked for too many links of this template today."""
        if wanted.per_day is None or wanted.device is None:
            return
        today, tomorrow = day_of(asked_at)
        earlier = await self._kept.earlier(app.name, name, wanted.device, wanted.template, asked_at, today)
        if earlier >= wanted.per_day:
            await self._kept.give_up(app.name, name)
            raise QuotaUsedUp(wanted.per_day, max(tomorrow - self._unix_time(), 1))

    async def _at_dub(self, app: App, wanted: WantedLink) -> CreatedLink:
        """Create the link at Dub, or find the one with its external id."""
        try:
            link = await self._dub.create_link(app, _body(wanted), queue_timeout_s=self._call_s)
        except DubRefused as exc:
            if exc.status != _CONFLICT:
                raise
            try:
                found = await self._dub.find_link(app, wanted.external_id, queue_timeout_s=self._call_s)
            except DubRefused as not_found:
                if not_found.status == _NOT_FOUND:
                    raise exc from None  # the key is taken, not the external id
                raise
            return _created(found, repeat=True)
        return _created(link, repeat=False)

    def _remember(self, app: App, wanted: WantedLink, at: float, created: CreatedLink) -> CreatedLink:
        if not self._is_erased(wanted.device, at):
            self._remembered[app.name, wanted.identity[0]] = _Remembered(wanted.device, created, at)
        return created

    def _is_erased(self, device: str | None, at: float) -> bool:
        return device is not None and self._erasures.covers(device, at)


def _created(link: ShortLink, *, repeat: bool) -> CreatedLink:
    return CreatedLink(link.id, link.domain, link.key, link.short_link, link.url, repeat)


class _Body(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of Dub's ``POST /links``."""

    url: str
    domain: str
    external_id: str
    key: str | None = None
    prefix: str | None = None
    tenant_id: str | None = None
    track_conversion: bool | None = None


_encode = msgspec.json.Encoder().encode


def _body(wanted: WantedLink) -> bytes:
    return _encode(
        _Body(
            url=wanted.url,
            domain=wanted.domain,
            external_id=wanted.external_id,
            key=wanted.key,
            prefix=wanted.prefix,
            tenant_id=wanted.tenant_id,
            track_conversion=wanted.track_conversion,
        )
    )
