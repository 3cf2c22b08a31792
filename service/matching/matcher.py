"""Match an open without a link to a click of its network, and claim the click.

What can go wrong: two installs that open at the same moment get one click (only one claim succeeds, and the
other install decides again); an install that reports twice loses its click (its own claim does not count
against it); a dry run uses up a click (``preview`` claims nothing).
"""

from collections.abc import Callable, Mapping

from service.domain.match_odds import Rates
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
        rates: Callable[[], Rates] = Rates,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._activity = activity
        self._claims = claims
        self._rules = rules
        self._rates = rates
        self._refused = refused  # called for each open whose click another install has

    async def match(self, network: int, opened: FirstOpen, from_dub: Click | None = None) -> Decision:
        """Record the open, choose a click and claim it; raises ``StoreFailed``.

        ``from_dub`` is a further candidate, which Dub matched itself.
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
            if await self._claim(click, opened.install):
                return decision
            lost[click.id] = ""  # another install has claimed it in the meantime

    async def match_touch(self, network: int, opened: FirstOpen, *, claim: bool) -> Decision | None:
        """Choose a candidate that a page has seen, and claim it; return None if none is good enough.

        Clicks of Dub's that are not known yet cannot change this decision much, so it is made at once. The
        open is not recorded if there is no such candidate. Raises ``StoreFailed``.
        """
        lost: dict[str, str] = {}
        while True:
            decision = await self._decide(network, opened, None, lost)
            click = decision.click
            if click is None or not click.touch_id:
                return None
            if not claim:
                return decision
            self._activity.record_open(network, opened.install, opened.at_ms)
            if await self._claim(click, opened.install):
                return decision
            lost[click.id] = ""

    async def preview(self, network: int, opened: FirstOpen, from_dub: Click | None = None) -> Decision:
        """Choose a click as ``match`` does, without recording or claiming; raises ``StoreFailed``."""
        return await self._decide(network, opened, from_dub, {})

    async def release(self, click: Click, install: str) -> None:
        """Release an install's claim on a click, and on the touch joined with it; raises ``StoreFailed``."""
        await self._claims.release(click.id, install)
        if click.touch_id and click.touch_id != click.id:
            await self._claims.release(click.touch_id, install)

    async def _claim(self, click: Click, install: str) -> bool:
        """Claim a click, and the touch that was joined with it; return False if another install has one."""
        if click.touch_id and click.touch_id != click.id:
            if not await self._claims.claim(click.touch_id, install):
                return False
            if not await self._claims.claim(click.id, install):
                await self._claims.release(click.touch_id, install)
                return False
            return True
        return await self._claims.claim(click.id, install)

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
            rates=self._rates(),
        )
