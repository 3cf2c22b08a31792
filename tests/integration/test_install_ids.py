"""Which installIds name one install, which name none: in opens, leads and erasure alike."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.world import AS_SERVER, World, build
from tests.support import FB_PROMO, FakeClock, LogLines

FROM_IOS = "8D7E6F5A-1234-4ABC-9DEF-001122334455"
FROM_A_BACKEND = FROM_IOS.lower()


@pytest.fixture
async def world(clock: FakeClock, logs: LogLines) -> AsyncIterator[World]:  # noqa: ARG001
    async for world in build(clock):
        yield world


@pytest.mark.parametrize(
    "placeholder",
    [
        "00000000-0000-0000-0000-000000000000",
        "undefined",
        "[object Object]",
        "9774d56d682e549c",
        "02:00:00:00:00:00",
    ],
)
async def test_a_placeholder_merges_nobody(world: World, placeholder: str) -> None:
    """Two phones that send the same placeholder are two installs, each with a click of its own."""
    one, other = [
        await world.service.open(FB_PROMO, install_id=placeholder, headers={"X-Forwarded-For": ip})
        for ip in ("203.0.113.7", "198.51.100.9")
    ]
    assert not other.repeat
    assert one.click_id
    assert other.click_id
    assert one.click_id != other.click_id


async def test_a_placeholder_names_no_install_to_credit_or_forget(world: World) -> None:
    """A lead or an erasure for a placeholder is refused: it would be about strangers."""
    await world.service.open(FB_PROMO, install_id="undefined")
    lead = await world.lead(installId="undefined")
    assert lead.status_code == 422
    assert lead.json()["error"]["message"].startswith("installId: ")
    forget = await world.service.post(
        "/v1/installs/forget", json={"installId": "undefined"}, headers=AS_SERVER
    )
    assert forget.status_code == 422
    assert forget.json()["error"]["message"].startswith("installId: ")


async def test_the_case_of_a_uuid_makes_no_other_install(world: World) -> None:
    """An app on iOS reports its UUID in upper case, its backend in lower case: one install."""
    opened = await world.service.open(FB_PROMO, install_id=FROM_IOS)
    again = await world.service.open(FB_PROMO, install_id=FROM_A_BACKEND)
    assert again.repeat
    assert again.click_id == opened.click_id
    lead = await world.lead(installId=f" {FROM_A_BACKEND} ")
    assert lead.json()["click"] == {"id": opened.click_id}
    forgotten = await world.service.post(
        "/v1/installs/forget", json={"installId": FROM_A_BACKEND}, headers=AS_SERVER
    )
    assert forgotten.json()["answers"] == 1
    assert (await world.service.get(f"/v1/opens/{opened.open_id}")).status_code == 404
