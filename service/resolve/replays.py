"""Opens that were answered without Dub, reported to it once it answers again."""

from collections.abc import Mapping

import msgspec

from service.resolve.errors import DubUnavailable, NotConfigured
from service.resolve.model import App
from service.resolve.owed import Delivered, Entry, Later, OwedOpen, Verdict
from service.resolve.resolver import Resolver

_decode = msgspec.json.Decoder(OwedOpen).decode


class Replays:
    """Delivers the outbox's opens."""

    def __init__(self, resolver: Resolver, apps: Mapping[str, App]) -> None:
        self._resolver = resolver
        self._apps = apps

    async def deliver(self, entry: Entry) -> Verdict:
        """Report an open once; Dub's 404 is an answer like any other."""
        app = self._apps.get(entry.app)
        if app is None:
            return Later(NotConfigured(f"apps.{entry.app} is not configured any more"))
        try:
            await self._resolver.replay(app, _decode(entry.payload))
        except DubUnavailable as exc:
            return Later(exc)
        return Delivered()
