"""From an open with no link to a click that is claimed: the window, the crowds and the claims, together.

What can go wrong: one click given to two installs that open in the same instant (the claim decides, and
the loser looks again); the same install asking twice and losing its own click (its claim is no obstacle);
a dry run that uses a click up (``preview`` claims nothing).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

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
from service.resolve.networks import Network, Networks
from service.resolve.ports import Claims
from service.resolve.sightings import Crowds, Retirements
from service.resolve.window import ClickWindow

_TAKEN = {Rejection.CLAIMED, Rejection.USED_UP}


class Crowd(Protocol):
    """How many installs opened from a network, counted by all replicas."""

    async def count(self, network: int, install: str, at_ms: int, *, note: bool) -> int:
        """Count distinct installs within the window before ``at_ms``, after noting this one if asked to."""
        ...


class Matcher:
    """Matches the opens of one app."""

    def __init__(
        self,
        *,
        networks: Networks,
        window: ClickWindow,
        claims: Claims,
        rules: Rules,
        refused: Callable[[], None] = lambda: None,
        crowd: Crowd | None = None,
    ) -> None:
        self.window = window
        self.networks = networks
        self._claims = claims
        self._rules = rules
        self._crowd = crowd
        self._refused = refused  # hears of each open that came too late for a click
        self._crowds = Crowds(window.window_s, rules.crowd_limit)
        self._retirements = Retirements(window.window_s)

    def saw(self, ip: str | None, install: str, at_ms: int) -> int | None:
        """Note any open of the app, with a link or without: crowds are counted from them.

        Returns the network, for ``remember``.
        """
        network = self.networks.of(ip)
        self._saw(network, install, at_ms)
        return network.key

    def remember(self, network: int, install: str, at_ms: int) -> None:
        """Note again what was noted before a stop."""
        self._crowds.note(network, install, at_ms)

    async def match(self, ip: str | None, opened: FirstOpen, told: Click | None = None) -> Decision:
        """Decide and claim; ``told`` is one more candidate, from Dub. The open itself is noted, too."""
        network = self.networks.of(ip)
        self._saw(network, opened.install, opened.at_ms)
        lost: dict[str, str] = {}
        elsewhere = await self._counted(network, opened, note=True)
        while True:
            decision = await self._decide(network, opened, told, lost, elsewhere)
            click = decision.click
            if click is None:
                if lost or any(each.rejected in _TAKEN for each in decision.considered):
                    self._refused()
                return decision
            if await self._claims.claim(click.id, opened.install):
                return decision
            lost[click.id] = ""  # somebody else's, by now

    async def preview(self, ip: str | None, opened: FirstOpen, told: Click | None = None) -> Decision:
        """Decide as ``match`` would, and change nothing."""
        network = self.networks.of(ip)
        elsewhere = await self._counted(network, opened, note=False)
        return await self._decide(network, opened, told, {}, elsewhere)

    def found(self, ip: str | None, opened: FirstOpen, link_id: str) -> tuple[int | None, list[str]]:
        """Note an install that was found by deep link, referrer or clipboard: its clicks are used up.

        Those of its network, link and system, seen or yet to be seen. Returns the network, and the clicks
        seen, to be claimed.
        """
        network = self.networks.of(ip)
        if network.key is None:
            return None, []
        if not opened.device.system:
            self._crowds.note(network.key, opened.install, opened.at_ms)
            return network.key, []
        retirement = Retirement(opened.install, link_id, opened.at_ms, opened.device)
        self._retirements.note(network.key, retirement)
        clicks = self.window.clicks(network.key)
        return network.key, [click.id for click in clicks if retirement.covers(click)]

    async def claim(self, click_ids: Sequence[str], install: str) -> tuple[str, ...]:
        """Claim clicks for an install; returns those that are its own now."""
        return tuple([each for each in click_ids if await self._claims.claim(each, install)])

    async def release(self, click_id: str, install: str) -> None:
        """Give back a click that was claimed for an install; raises ``StoreFailed``."""
        await self._claims.release(click_id, install)

    async def retire(self, ip: str | None, opened: FirstOpen, link_id: str) -> tuple[str, ...]:
        """Use up the web clicks of an install that was found; returns the clicks claimed now."""
        _, clicks = self.found(ip, opened, link_id)
        return await self.claim(clicks, opened.install)

    def _saw(self, network: Network, install: str, at_ms: int) -> None:
        if network.key is not None:
            self._crowds.note(network.key, install, at_ms)

    async def _counted(self, network: Network, opened: FirstOpen, *, note: bool) -> int:
        if self._crowd is None or network.key is None:
            return 0
        return await self._crowd.count(network.key, opened.install, opened.at_ms, note=note)

    async def _decide(
        self,
        network: Network,
        opened: FirstOpen,
        told: Click | None,
        lost: Mapping[str, str],
        elsewhere: int,
    ) -> Decision:
        if network.key is None:
            return nothing(network.unmatchable or "no_address")
        clicks = self.window.clicks(network.key)
        retirements = self._retirements.of(network.key, opened.at_ms)
        if told is not None and all(told.id != each.id for each in clicks):
            clicks = (*clicks, told)
        owners = await self._claims.owners([each.id for each in clicks]) if clicks else {}
        return decide(
            opened,
            clicks,
            self._rules,
            installs=max(
                self._crowds.count(network.key, opened.install, opened.at_ms, retirements), elsewhere
            ),
            owners={**owners, **lost} if lost else owners,
            retirements=retirements,
        )
