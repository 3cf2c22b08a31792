"""Which of an install's opens a lead is credited to."""

from itertools import permutations

import pytest
from msgspec import structs

from service.attribution.lead_credit import may_get_click, open_to_credit
from service.domain.evidence import EVIDENCE_PRIORITY
from service.domain.models import (
    BY_CLIPBOARD,
    BY_DEEP_LINK,
    BY_REFERRER,
    NO_MATCH,
    Match,
    Open,
)

BY_IP = Match("ip", guaranteed=False)


def opened(name: str, match: Match = NO_MATCH, *, pending: str | None = None) -> Open:
    """Build an open: with a click unless its match is none; ``pending`` names the evidence it waits for."""
    return Open(
        app="acme",
        open_id=name,
        device="00" * 8,
        click_id=f"click-{name}" if match is not NO_MATCH else None,
        match=match,
        provisional=pending is not None,
        offered=EVIDENCE_PRIORITY[pending or match.type],
        opened_at=0,
        repeat_until=0,
    )


ORGANIC = opened("organic")
IP, CLIPBOARD, REFERRER, LINK = (
    opened("ip", BY_IP),
    opened("clipboard", BY_CLIPBOARD),
    opened("referrer", BY_REFERRER),
    opened("link", BY_DEEP_LINK),
)


@pytest.mark.parametrize(
    ("opens", "credited"),
    [
        ([ORGANIC], "organic"),
        ([ORGANIC, IP], "ip"),
        ([IP, CLIPBOARD, ORGANIC], "clipboard"),
        ([CLIPBOARD, REFERRER, IP], "referrer"),
        ([IP, LINK, REFERRER], "link"),
    ],
)
def test_the_strongest_evidence_is_credited(opens: list[Open], credited: str) -> None:
    """In whatever order the opens came."""
    for order in permutations(opens):
        found = open_to_credit(order)
        assert found is not None
        assert found.open_id == credited


def test_the_newest_of_equals_is_credited() -> None:
    """Of two links that the install opened, the one opened last: Dub credits the last click, too."""
    newest = opened("newest", BY_DEEP_LINK)
    assert open_to_credit([newest, LINK, IP]) is newest


def test_an_install_without_opens_has_none() -> None:
    assert open_to_credit([]) is None


@pytest.mark.parametrize(
    ("awaited", "known", "credited"),
    [
        ("deep_link", ORGANIC, "awaited"),
        ("deep_link", IP, "awaited"),
        ("install_referrer", IP, "awaited"),
        ("ip", ORGANIC, "awaited"),
        ("ip", IP, "known"),
        ("ip", LINK, "known"),
        ("deep_link", LINK, "known"),
    ],
)
def test_a_lead_waits_for_stronger_evidence_only(awaited: str, known: Open, credited: str) -> None:
    """A guess does not win because the certain answer takes longer; and nobody waits for a guess."""
    pending = opened("pending", pending=awaited)
    looking = structs.replace(pending, provisional=False, looking=True)
    for waiting in (pending, looking):
        assert may_get_click(waiting)
        for order in ([waiting, known], [known, waiting]):
            assert open_to_credit(order) is {"awaited": waiting, "known": known}[credited]
