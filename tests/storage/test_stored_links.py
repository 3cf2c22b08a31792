"""The store of short links: found under any secret, counted for quotas, forgotten with their install."""

from service.domain.short_links import ShortLink
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.erasures import ErasureStore
from service.storage.short_links import ShortLinkStore

LINK = ShortLink("link_1", "acme.link", "i/x", "https://acme.link/i/x", "https://acme.com/invite/anna")
ANNA, BEN = "00000000000000a1", "00000000000000b2"
NOW = 1_785_585_600.0


def opened(database: Database, *secrets: str) -> ShortLinkStore:
    return ShortLinkStore(database, Cipher(secrets or ("secret",)))


async def test_a_link_is_found_once_it_is_created(database: Database) -> None:
    """It is asked for once under a name; what was created is the answer, encrypted."""
    links = opened(database)
    assert await links.find("acme", ["fo_1"]) is None
    await links.add("acme", "fo_1", ANNA, "invite", NOW)
    await links.add("acme", "fo_1", ANNA, "invite", NOW + 5)
    pending = await links.find("acme", ["fo_1"])
    assert pending
    assert (pending.link, pending.created_at) == (None, NOW)
    await links.complete("acme", "fo_1", LINK)
    found = await links.find("acme", ["fo_new", "fo_1"])
    assert found
    assert (found.name, found.link) == ("fo_1", LINK)
    assert await links.find("globex", ["fo_1"]) is None
    ((record,),) = await database.read("SELECT record FROM short_links")
    assert b"anna" not in bytes(record)


async def test_links_survive_a_change_of_the_secret(database: Database) -> None:
    """A complete link is preferred to a request; one under a secret that is gone is asked for again."""
    await opened(database, "old").add("acme", "fo_old", ANNA, "invite", NOW)
    await opened(database, "old").complete("acme", "fo_old", LINK)
    both = opened(database, "new", "old")
    await both.add("acme", "fo_new", ANNA, "invite", NOW)
    found = await both.find("acme", ["fo_new", "fo_old"])
    assert found
    assert found.link == LINK
    lost = await opened(database, "new").find("acme", ["fo_old"])
    assert lost
    assert lost.link is None


async def test_created_links_and_earlier_requests_count(database: Database) -> None:
    """For a quota: those of the install, template and day, whatever clock stamped a created one."""
    links = opened(database)
    for name, device, template, at in (
        ("fo_a", ANNA, "invite", NOW + 1),
        ("fo_b", ANNA, "invite", NOW + 2),
        ("fo_c", ANNA, "invite", NOW + 2),
        ("fo_other", ANNA, "share", NOW + 1),
        ("fo_ben", BEN, "invite", NOW + 1),
        ("fo_yesterday", ANNA, "invite", NOW - 1),
    ):
        await links.add("acme", name, device, template, at)

    async def earlier(name: str, at: float) -> int:
        return await links.earlier("acme", name, ANNA, "invite", at, NOW)

    assert [
        await earlier(name, at) for name, at in (("fo_a", NOW + 1), ("fo_b", NOW + 2), ("fo_c", NOW + 2))
    ] == [
        0,
        1,
        2,
    ]
    await links.complete("acme", "fo_c", LINK)
    assert await earlier("fo_a", NOW + 1) == 1
    await links.give_up("acme", "fo_a")
    await links.give_up("acme", "fo_c")  # it is created, so it stays
    assert await earlier("fo_b", NOW + 2) == 1


async def test_an_erased_install_leaves_no_links(database: Database) -> None:
    """Its rows go, also one that another replica wrote a moment later; links of backends stay."""
    links, erasures = opened(database), ErasureStore(database, lambda: NOW)
    await links.add("acme", "fo_1", ANNA, "invite", NOW - 10)
    await links.add("acme", "fo_2", BEN, "invite", NOW - 10)
    await links.add("acme", "fo_3", None, "", NOW - 10)
    assert await links.forget([ANNA]) == 1
    await erasures.add([ANNA], NOW)
    await links.complete("acme", "fo_1", LINK)
    assert await links.find("acme", ["fo_1"]) is None
    await links.add("acme", "fo_late", ANNA, "invite", NOW - 5)
    await links.add("acme", "fo_new", ANNA, "invite", NOW + 5)
    await erasures.expire()
    assert await database.read("SELECT name FROM short_links ORDER BY name") == [
        ("fo_2",),
        ("fo_3",),
        ("fo_new",),
    ]
    assert await links.expire(int(NOW * 1000)) == 2
