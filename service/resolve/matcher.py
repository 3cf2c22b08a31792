"""From an open with no link to a click that is claimed, by what is known of the open's network.

What can go wrong: one click given to two installs that open in the same instant (the claim decides, and
the loser looks again); the same install asking twice and losing its own click (its claim is no obstacle);
a dry run that uses a click up (``preview`` claims nothing).
"""

from collections.abc import Callable, Mapping

from service.resolve.matching import (
    Click,
    Decision,
    FirstOpen,
    Rejection,
    Retirement,
    Rules,
    decide,
    nothing,
)
from service.resolve.networks import Networks
from service.resolve.ports import Claims, NetworkActivity

_TAKEN = {Rejection.CLAIMED, Rejection.USED_UP, Rejection.RETIRED}


class Matcher:
    """Matches the opens of one app."""

    def __init__(
        self,
        *,
        networks: Networks,
        activity: NetworkActivity,
        claims: Claims,
        rules: Rules,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.networks = networks
        self._activity = activity
        self._claims = claims
        self._rules = rules
        self._refused = refused  # called for each open that came too late for a click

    def saw(self, ip: str | None, install: str, at_ms: int) -> int | None:
        """Note any open of the app, with a link or without: crowds are counted from them.

        Returns the network, to be stored with the open.
        """
        network = self.networks.of(ip).key
        if network is not None:
            self._activity.saw(network, install, at_ms)
        return network

    def found(self, ip: str | None, opened: FirstOpen, link_id: str) -> int | None:
        """Note an install that was found by deep link, referrer or clipboard: its clicks are used up.

        Those of its network, link and system, seen or yet to be seen. Returns the network, to be stored with
        the open.
        """
        network = self.networks.of(ip).key
        if network is None:
            return None
        if opened.device.system:
            retirement = Retirement(opened.install, link_id, opened.at_ms, opened.device)
            self._activity.found(network, retirement)
        else:
            self._activity.saw(network, opened.install, opened.at_ms)
        return network

    async def match(self, ip: str | None, opened: FirstOpen, told: Click | None = None) -> Decision:
        """Decide and claim; ``told`` is one more candidate, from Dub. The open itself is noted, too.

        Raises ``StoreFailed``.
        """
        self.saw(ip, opened.install, opened.at_ms)
        lost: dict[str, str] = {}
        while True:
            decision = await self._decide(ip, opened, told, lost)
            click = decision.click
            if click is None:
                if lost or any(each.rejected in _TAKEN for each in decision.considered):
                    self._refused()
                return decision
            if await self._claims.claim(click.id, opened.install):
                return decision
            lost[click.id] = ""  # another install's, by now

    async def preview(self, ip: str | None, opened: FirstOpen, told: Click | None = None) -> Decision:
        """Decide as ``match`` would, and change nothing; raises ``StoreFailed``."""
        return await self._decide(ip, opened, told, {})

    async def release(self, click_id: str, install: str) -> None:
        """Give back a click that was claimed for an install; raises ``StoreFailed``."""
        await self._claims.release(click_id, install)

    async def _decide(
        self, ip: str | None, opened: FirstOpen, told: Click | None, lost: Mapping[str, str]
    ) -> Decision:
        network = self.networks.of(ip)
        if network.key is None:
            return nothing(network.unmatchable or "no_address")
        view = await self._activity.view(network.key, opened.install, opened.at_ms)
        clicks, owners = view.clicks, view.owners
        if told is not None and all(told.id != each.id for each in clicks):
            clicks = (*clicks, told)
            owners = {**owners, **await self._claims.owners([told.id])}
        return decide(
            opened,
            clicks,
            self._rules,
            installs=view.installs,
            owners={**owners, **lost} if lost else owners,
            retirements=view.retirements,
        )
