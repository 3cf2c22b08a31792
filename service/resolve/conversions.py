"""Leads and sales on their way to Dub.

Dub sets a lead's deduplication key before it looks the click up (``/track/lead``): a lead answered 404
would be swallowed when it is sent again. So a lead is asked for as ``deferred`` first, which checks the
click and burns nothing; only then is it sent for good, and a null link means that it was recorded before.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from service.resolve.errors import NotConfigured
from service.resolve.model import App
from service.resolve.ports import DubConversions

_encode = msgspec.json.Encoder().encode


class Conversions:
    """Sends what an app or its backend reports, with the app's own Dub API key."""

    def __init__(self, dub: DubConversions) -> None:
        self._dub = dub

    async def lead(self, app: App, lead: Mapping[str, Any]) -> bytes:
        """Send a lead (fields by Dub's names) and return Dub's JSON.

        Raises ``NotConfigured``, ``DubRefused`` (a 404 leaves the lead free to be sent again) or a
        ``DubUnavailable``.
        """
        key = _api_key(app)
        if lead.get("mode") != "deferred":
            await self._dub.track_lead(key, _encode({**lead, "mode": "deferred"}))
        return await self._dub.track_lead(key, _encode(lead))

    async def sale(self, app: App, sale: Mapping[str, Any]) -> bytes:
        """Send a sale (fields by Dub's names) and return Dub's JSON; raises as ``lead``."""
        return await self._dub.track_sale(_api_key(app), _encode(sale))


def _api_key(app: App) -> str:
    if not app.dub_api_key:
        raise NotConfigured(f"apps.{app.name}.dub_api_key_env: no Dub API key is set for this app")
    return app.dub_api_key
