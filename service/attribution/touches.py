"""Record touches: a web page of the app's owner saw a visitor on the way to the store.

What can go wrong: a publishable key is public, so anybody can send touches. They come from the sender's own
address, so they are candidates on the sender's own network only, which keeps a few; there, they make matches
less likely. A page that is loaded again is one touch: its id is made of what it is about, and of the time in
steps of five minutes.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Literal

from msgspec import Struct

from service.domain.deep_links import DeepLink
from service.domain.device_identity import upstream_user_agent
from service.domain.device_traits import traits_of_click
from service.domain.errors import DubLinkNotFound, DubUnavailable, InvalidField
from service.domain.match_odds import Signals
from service.domain.match_rules import SECOND_CLICK_S, Click
from service.domain.models import App, Caller, Link
from service.domain.networks import Network, Unmatchable
from service.domain.ports import LinkProvider, OpenCache, TouchStore
from service.domain.touches import TOUCH, compared_signals

_LOOK_UP_S = 1.0
_ID_BYTES = 12

NotStored = Literal[Unmatchable, "off", "no_consent", "unknown_system", "too_many"]


class TouchReport(Struct, frozen=True, kw_only=True):
    """A page's report of a visitor. Fields are validated before this is built."""

    caller: Caller
    link: DeepLink
    click_id: str | None = None
    consent: bool | None = None
    signals: Signals


class TouchAnswer(Struct, frozen=True, omit_defaults=True):
    """Whether a touch can be matched. ``reason`` says why not."""

    stored: bool
    reason: NotStored | None = None


class Touches:
    """Records touches. ``network_of`` hashes an address for an app; ``unix_time`` is Unix seconds."""

    def __init__(
        self,
        *,
        store: TouchStore,
        dub: LinkProvider,
        cache: OpenCache,
        network_of: Callable[[str, str | None], Network],
        secret: bytes,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
    ) -> None:
        self._store = store
        self._dub = dub
        self._cache = cache
        self._network_of = network_of
        self._secret = blake2b(secret, person=b"touches", digest_size=32).digest()
        self._clock = clock
        self._unix_time = unix_time

    async def record(self, report: TouchReport) -> TouchAnswer:
        """Store a touch; raises ``InvalidField`` for a link that Dub does not know, or ``StoreFailed``."""
        app, caller = report.caller.app, report.caller
        if app.ip_matching == "off" or not app.matching:
            return TouchAnswer(stored=False, reason="off")
        if app.ip_matching == "consented" and report.consent is not True:
            return TouchAnswer(stored=False, reason="no_consent")
        network = self._network_of(app.name, caller.ip)
        if network.key is None:
            return TouchAnswer(stored=False, reason=network.unmatchable or "no_address")
        device = traits_of_click(caller.user_agent, None, None)
        if not device.system:
            return TouchAnswer(stored=False, reason="unknown_system")
        link = await self._described(app, report.link, caller.user_agent)
        now_ms = int(self._unix_time() * 1000)
        touch = Click(
            report.click_id or self._id(app, network.key, report, now_ms),
            now_ms,
            link,
            report.link.carried,
            device,
            compared_signals(app, report.signals, consent=report.consent),
        )
        stored = await self._store.add(app.name, network.key, touch, now_ms - app.window_s * 1000)
        return TouchAnswer(stored=True) if stored else TouchAnswer(stored=False, reason="too_many")

    async def _described(self, app: App, link: DeepLink, user_agent: str) -> Link:
        """Return the link as Dub describes it, which is asked once; without Dub, only its name is known."""
        known = self._cache.link(link.domain, link.key)
        if known is not None:
            return known
        if self._cache.unknown_for_s(link.domain, link.key) > 0:
            raise InvalidField("url", "Dub does not know this link")
        asked = self._clock()
        try:
            found = await self._dub.track_open(
                app.name,
                link.at_dub,
                user_agent=upstream_user_agent(user_agent, "touch"),
                ip=None,
                queue_timeout_s=_LOOK_UP_S,
                no_track=True,
            )
        except DubLinkNotFound as exc:
            self._cache.keep_unknown(link.domain, link.key, asked)
            raise InvalidField("url", "Dub does not know this link") from exc
        except DubUnavailable:
            found = None
        if found is None or found.link is None:
            return Link("", link.domain, link.key, None)
        return self._cache.keep_link(link.domain, link.key, found.link)

    def _id(self, app: App, network: int, report: TouchReport, now_ms: int) -> str:
        """Return an id that a page which is loaded again within five minutes gets again."""
        parts = (
            app.name,
            str(network),
            report.caller.user_agent,
            report.link.url,
            str(now_ms // (SECOND_CLICK_S * 1000)),
        )
        text = "\n".join(parts).encode("utf-8", "surrogatepass")
        return TOUCH + blake2b(text, key=self._secret, digest_size=_ID_BYTES).hexdigest()
