"""How busy a network is, and who was found there: from stored opens, and from those of a moment ago."""

from collections.abc import Callable

import pytest

from service.domain.device_traits import Traits
from service.domain.evidence import EVIDENCE_PRIORITY
from service.domain.match_rules import NetworkView, Retirement, Rules
from service.domain.models import BY_DEEP_LINK, NO_MATCH, Link, Open
from service.storage import network_activity
from service.storage.clicks import ClickStore
from service.storage.database import Database
from service.storage.encryption import Cipher
from service.storage.erasures import ErasureStore
from service.storage.network_activity import NetworkActivity
from service.storage.opens import SqlOpenStore

HOME, OFFICE = 7, 2**64 - 1
LINK = Link("link_1", "acme.link", "fb-promo", "https://acme.com/product/123")
IOS = Traits("ios", "iphone15,2", 17)
NOON_MS = 1_785_585_600_000
HOUR_MS = 3_600_000


def install(number: int) -> str:
    return f"{number:016x}"


class Opens:
    """The opens of one app, stored as the service stores them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.now_ms = NOON_MS
        self._store = SqlOpenStore(
            database, Cipher(["one"]), clock=lambda: 0, unix_time=lambda: self.now_ms / 1000
        )
        self._count = 0

    def keep(
        self,
        number: int,
        at_ms: int = NOON_MS,
        network: int | None = HOME,
        traits: Traits | None = None,
        app: str = "acme",
        open_id: int | None = None,
        link: Link | None = None,
    ) -> None:
        self._count += 1
        opened = Open(
            app=app,
            open_id=f"{open_id or self._count:032x}",
            device=install(number),
            link=link or (None if traits is None else LINK),
            match=NO_MATCH if traits is None else BY_DEEP_LINK,
            offered=EVIDENCE_PRIORITY["ip" if traits is None else "deep_link"],
            opened_at=at_ms / 1000,
            repeat_until=0,
        )
        self.now_ms = at_ms
        self._store.keep(self._count.to_bytes(16, "big"), opened, network, traits)

    async def view(self, number: int = 0, network: int = HOME, app: str = "acme") -> NetworkView:
        """Look as a process does that has just been started."""
        await self.database.read_written("SELECT 1")
        return await activity_of(self.database, app).view(network, install(number), NOON_MS)


def activity_of(
    database: Database, app: str = "acme", clock: Callable[[], float] = lambda: 0
) -> NetworkActivity:
    store = ClickStore(database, Cipher(["one"]), app, "an hour")
    return NetworkActivity(database, store, app, Rules(), clock=clock)


@pytest.fixture
def opens(database: Database) -> Opens:
    return Opens(database)


async def test_installs_are_counted_once(opens: Opens) -> None:
    """Those of the network, the app and the day, and the one that asks."""
    for number in (1, 1, 2):
        opens.keep(number)
    opens.keep(3, network=OFFICE)
    opens.keep(4, network=None)
    opens.keep(5, app="other")
    opens.keep(6, at_ms=NOON_MS - 24 * HOUR_MS - 1)
    opens.keep(7, at_ms=NOON_MS - 24 * HOUR_MS)
    assert (await opens.view(0)).installs == 4
    assert (await opens.view(1)).installs == 3
    assert (await opens.view(0, network=OFFICE)).installs == 2


async def test_an_install_that_opens_every_day_counts_when_it_did_last(opens: Opens) -> None:
    """Opened again without a link, it is the same open (it has one row)."""
    opens.keep(1, at_ms=NOON_MS - 25 * HOUR_MS, open_id=99)
    assert (await opens.view(0)).installs == 1
    opens.keep(1, open_id=99)
    assert (await opens.view(0)).installs == 2


async def test_counting_ends_at_some_number(opens: Opens) -> None:
    for number in range(1, 300):
        opens.keep(number)
    assert (await opens.view()).installs == network_activity.INSTALLS_MAX


async def test_certain_opens_are_retirements(opens: Opens) -> None:
    """Installs that were found by a link of their own, with their devices; as long as their clicks count."""
    opens.keep(1)
    opens.keep(2, traits=IOS)
    opens.keep(3, traits=IOS, network=OFFICE)
    opens.keep(4, at_ms=NOON_MS - HOUR_MS - 60_000, traits=Traits("android"))
    opens.keep(5, at_ms=NOON_MS - 2 * HOUR_MS, traits=IOS)
    view = await opens.view()
    found = sorted(view.retirements, key=lambda each: each.install)
    assert found == [
        Retirement(install(2), LINK.id, NOON_MS, IOS),
        Retirement(install(4), LINK.id, NOON_MS - HOUR_MS - 60_000, Traits("android")),
    ]
    assert view.installs == 5


async def test_a_second_report_in_the_same_batch_keeps_the_traits(opens: Opens) -> None:
    """An open by a referrer, reported again without a link before it is written, still uses up its click."""
    opens.keep(4, traits=IOS, open_id=7)
    opens.keep(4, traits=None, open_id=7, link=LINK)
    view = await opens.view()
    assert [(each.install, each.device) for each in view.retirements] == [(install(4), IOS)]


async def test_a_retirement_stays_where_it_was_made(opens: Opens) -> None:
    """Also if the install opens again elsewhere."""
    opens.keep(1, traits=IOS, open_id=99)
    assert len((await opens.view()).retirements) == 1
    opens.keep(1, network=OFFICE, open_id=99, link=LINK)
    assert [each.install for each in (await opens.view()).retirements] == [install(1)]
    assert (await opens.view(network=OFFICE)).retirements == ()


async def test_erased_installs_do_not_count(opens: Opens) -> None:
    opens.keep(1, at_ms=NOON_MS - 5000, traits=IOS)
    opens.keep(2, at_ms=NOON_MS - 5000)
    erasures = ErasureStore(opens.database, lambda: NOON_MS / 1000)
    await erasures.add([install(1), install(2)], NOON_MS / 1000 - 1)
    opens.keep(2)
    view = await opens.view()
    assert (view.installs, view.retirements) == (2, ())


async def test_what_was_seen_a_moment_ago_counts(database: Database) -> None:
    """Before the database has it, and no longer than it takes until it has."""
    now = 0.0
    activity = activity_of(database, clock=lambda: now)
    activity.record_open(HOME, install(1), NOON_MS)
    activity.record_open(HOME, install(1), NOON_MS)
    activity.record_open(HOME, install(2), NOON_MS - 24 * HOUR_MS - 1)
    retirement = Retirement(install(3), LINK.id, NOON_MS, IOS)
    activity.record_install(HOME, retirement)
    view = await activity.view(HOME, install(0), NOON_MS)
    assert (view.installs, view.retirements) == (3, (retirement,))
    assert (await activity.view(OFFICE, install(0), NOON_MS)).installs == 1
    now = 11.0
    view = await activity.view(HOME, install(0), NOON_MS)
    assert (view.installs, view.retirements) == (1, ())


async def test_memory_of_a_busy_network_is_bounded(database: Database) -> None:
    activity = activity_of(database)
    for number in range(1, 1000):
        activity.record_install(HOME, Retirement(install(number), LINK.id, NOON_MS, IOS))
    view = await activity.view(HOME, install(0), NOON_MS)
    assert view.installs == len(view.retirements) == network_activity.INSTALLS_MAX
