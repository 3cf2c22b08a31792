"""From an open with no link to a click that is claimed, by what is known of the open's network.

What can go wrong: one click given to two installs that open in the same instant (the claim decides, and
the loser looks again); the same install asking twice and losing its own click (its claim is no obstacle);
a dry run that uses a click up (``preview`` claims nothing).
"""

from collections.abc import Callable, Mapping

from service.domain.match_rules import Click, Decision, FirstOpen, Rejection, Rules, decide
from service.domain.ports import Claims, NetworkActivity

_TAKEN = {Rejection.CLAIMED, Rejection.USED_UP, Rejection.RETIRED}


class Matcher:
    """Matches the opens of one app."""

    def __init__(
        self,
        *,
        activity: NetworkActivity,
        claims: Claims,
        rules: Rules,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._activity = activity
        self._claims = claims
        self._rules = rules
        self._refused = refused  # called for each open that came too late for a click

    async def match(self, network: int, opened: FirstOpen, from_dub: Click | None = None) -> Decision:
        """Decide and claim; ``told`` is one more candidate, from Dub. The open itself counts from now on.

        Raises ``StoreFailed``.
        """
        self._activity.record_open(network, opened.install, opened.at_ms)
        lost: dict[str, str] = {}
        while True:
            decision = await self._decide(network, opened, from_dub, lost)
            click = decision.click
            if click is None:
                if lost or any(each.rejected in _TAKEN for each in decision.considered):
                    self._refused()
                return decision
            if await self._claims.claim(click.id, opened.install):
                return decision
            lost[click.id] = ""  # another install's, by now

    async def preview(self, network: int, opened: FirstOpen, from_dub: Click | None = None) -> Decision:
        """Decide as ``match`` would, and change nothing; raises ``StoreFailed``."""
        return await self._decide(network, opened, from_dub, {})

    async def release(self, click_id: str, install: str) -> None:
        """Give back a click that was claimed for an install; raises ``StoreFailed``."""
        await self._claims.release(click_id, install)

    async def _decide(
        self, network: int, opened: FirstOpen, from_dub: Click | None, lost: Mapping[str, str]
    ) -> Decision:
        view = await self._activity.view(network, opened.install, opened.at_ms)
        clicks, owners = view.clicks, view.owners
        if from_dub is not None and all(from_dub.id != each.id for each in clicks):
            clicks = (*clicks, from_dub)
            owners = {**owners, **await self._claims.owners([from_dub.id])}
        return decide(
            opened,
            clicks,
            self._rules,
            installs=view.installs,
            owners={**owners, **lost} if lost else owners,
            retirements=view.retirements,
        )
