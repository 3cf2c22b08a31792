"""Some days of a city, from a seed: every click, every open, and which click brought which install."""

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from math import log
from random import Random

from msgspec import Struct, structs

from service.domain.device_identity import Platform
from tests.bench.simulation.devices import DESKTOP, mac_safari
from tests.bench.simulation.parameters import City, varied
from tests.bench.simulation.people import DAY_S, HOUR_S, People, Person, Place

Signals = tuple[str, str, str]


class Clicked(Struct, frozen=True):
    """A click, with what Dub and a touch show of it, and when."""

    id: str
    at: float  # our clock
    dub_at: float  # Dub's
    visible_at: float
    link: int
    ip: str  # truly
    shown_ip: str  # by Dub
    user_agent: str | None
    system: str
    person: int
    eu: bool = False
    touched: bool = False  # a page saw the visitor, where links lead to one
    signals: Signals = ("", "", "")


class Opened(Struct, frozen=True):
    """An open of the app.

    ``brought_by`` is the truth: the last click on the same phone before the install and within the hour
    before its first open, whatever the person's reason; else the click that made them install it later.
    """

    at: float
    person: int
    install: str
    ip: str
    platform: Platform
    user_agent: str
    first: bool = False
    stronger: bool = False  # a deep link, a referrer or the clipboard says which link it was
    brought_by: str | None = None
    link: int | None = None  # as stronger evidence says
    installed_at: float | None = None
    referrer: str = ""  # "link" or "organic", if the app reports an install referrer
    signals: Signals = ("", "", "")
    place: str = ""
    eu: bool = False


class Days(Struct, frozen=True):
    """All that happened."""

    clicks: list[Clicked]
    opens: list[Opened]
    scored_from: float = 0.0


class Town:
    """A city's people, and what they do.

    ``seed`` is a text: the tuning seeds and the test seeds are different texts.
    """

    def __init__(self, city: City, seed: str) -> None:
        self._random = Random(seed)
        self._city = city = varied(city, self._random)
        self._clock_difference = self._random.uniform(-1, 1) * city.clock_difference_max
        self._sends_times = self._chance(city.sends_times)
        self._clicks: list[Clicked] = []
        self._opens: list[Opened] = []
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._turn = count()
        self._people = People(city, self._random)
        self._weights = [1 / rank for rank in range(1, city.links + 1)]
        self._last_click: dict[int, Clicked] = {}  # on the phone, by person

    def live(self) -> Days:
        """Let the days pass, in order."""
        city = self._city
        per_day = city.first_opens / city.days
        clicks = int(per_day * (1 - city.organic) / (city.installs_after_click * (1 - city.desktop_clicks)))
        for _ in range(int(per_day * city.active_users_per_install)):
            person = self._people.anybody()
            person.has_app = True
            self._plan_use(person, 0.0)
        for _ in range(int(per_day * city.organic * city.days)):
            self._plan(self._moment(), partial(self._install, self._people.anybody(), click=None))
        in_bursts = int(clicks * city.days * city.in_bursts)
        for _ in range(clicks * city.days - in_bursts):
            self._plan(self._moment(), partial(self._tap, self._people.anybody(), link=self._some_link()))
        while in_bursts > 0:
            began, link = self._moment(), self._some_link()
            for _ in range(min(city.burst_clicks, in_bursts)):
                at = began + self._random.uniform(0, city.burst_length)
                self._plan(at, partial(self._tap, self._people.anybody(), link=link))
            in_bursts -= city.burst_clicks
        while self._agenda:
            at, _, act = heapq.heappop(self._agenda)
            act(at)
        return Days(self._clicks, self._opens, city.warm_up_days * DAY_S)

    def _plan(self, at: float, act: Callable[[float], None]) -> None:
        if at < self._city.days * DAY_S:
            heapq.heappush(self._agenda, (at, next(self._turn), act))

    def _tap(self, person: Person, at: float, *, link: int, follows: bool = False) -> None:
        """Tap a link, and do what people then do."""
        city = self._city
        place = self._people.place(person, at)
        if self._chance(city.desktop_clicks):
            mac = self._chance(city.mac_safari)
            agent = mac_safari(self._random) if mac else DESKTOP
            self._record(person, at, link, agent, "Mac" if mac else "Windows", self._ip(person, place, at))
            return
        if person.has_app and self._chance(city.app_takes_link):
            self._opens.append(self._open(person, at, place, stronger=True, link=link))
            return
        self._click(person, at, link, place, follows=follows)

    def _click(self, person: Person, at: float, link: int, place: Place, *, follows: bool) -> None:
        city = self._city
        in_app = self._chance(city.in_app_browser)
        relayed = person.phone.safari and not in_app and self._chance(city.relay)
        ip = self._people.relay() if relayed else self._ip(person, place, at)
        agent = person.phone.browser_agents[in_app]
        click = self._record(person, at, link, agent, person.phone.dub_system, ip)
        self._last_click[person.number] = click
        if not follows:
            if self._chance(city.second_link):
                other = (link + 1) % city.links
                again = partial(self._click, person, link=other, place=place, follows=True)
                self._plan(at + self._random.uniform(20, 600), again)
                return
            if self._chance(city.taps_again):
                again_at = at + self._random.uniform(3, 300)
                self._plan(again_at, partial(self._click, person, link=link, place=place, follows=True))
                return
            self._share_at_home(person, at, link, place)
        if not person.has_app and self._chance(city.installs_after_click):
            began = at + self._hesitation()
            self._plan(began, partial(self._install, person, click=click, place=place))

    def _share_at_home(self, person: Person, at: float, link: int, place: Place) -> None:
        if place[0] != "home" or not self._chance(self._city.shared_at_home):
            return
        others = self._people.housemates(person)
        if others:
            other = partial(self._tap, self._random.choice(others), link=link, follows=True)
            self._plan(at + self._random.uniform(30, HOUR_S), other)

    def _tell_another(self, person: Person, at: float, place: Place) -> None:
        """Let somebody at the same place install the app without a click."""
        others = self._people.others_at(person, place)
        if others:
            another = partial(self._install, self._random.choice(others), click=None, place=place)
            self._plan(at + self._random.uniform(60, HOUR_S), another)

    def _install(
        self, person: Person, at: float, *, click: Clicked | None, place: Place | None = None
    ) -> None:
        """Tap "Get" in the store, unless the app is there already; download it and open it."""
        if person.has_app:
            return
        city = self._city
        person.has_app = True
        installed = at + 2 + self._random.lognormvariate(log(city.downloads_median), city.downloads_sigma)
        if self._chance(city.opens_at_once):
            opens = installed + 1 + self._random.lognormvariate(log(5), 1)
        else:
            later = self._random.lognormvariate(log(city.opens_later_median), city.opens_later_sigma)
            opens = installed + later
        first = partial(self._first_open, person, click=click, place=place, installed=installed)
        self._plan(opens, first)

    def _first_open(
        self, person: Person, at: float, *, click: Clicked | None, place: Place | None, installed: float
    ) -> None:
        city = self._city
        self._plan_use(person, at)
        stays = click is None or (at - click.at < HOUR_S and not self._chance(city.changes_network))
        if place is None or not stays:
            place = self._people.place(person, at)
        stronger = click is not None and self._has_evidence(person)
        last = self._last_click.get(person.number)
        if last is None or at - last.at > HOUR_S or last.at > installed:
            last = click
        brought_by = last.id if last else None
        opened = self._open(
            person, at, place, stronger=stronger, link=click.link if click and stronger else None
        )
        opened = self._as_first(opened, person, brought_by, installed)
        if person.phone.platform == "android" and (stronger if click else self._chance(city.referrer)):
            opened = structs.replace(opened, referrer="link" if click else "organic")
        self._opens.append(opened)
        if click is not None and self._chance(city.tells_others):
            self._tell_another(person, at, place)
        if self._chance(city.reinstalls):
            self._plan(at + self._random.uniform(120, HOUR_S), partial(self._reinstall, person, place=place))

    def _reinstall(self, person: Person, at: float, *, place: Place) -> None:
        person.installs += 1
        self._opens.append(self._as_first(self._open(person, at, place), person, None, at - 10))

    def _as_first(self, opened: Opened, person: Person, brought_by: str | None, installed: float) -> Opened:
        return Opened(
            at=opened.at,
            person=opened.person,
            install=opened.install,
            ip=opened.ip,
            platform=opened.platform,
            user_agent=opened.user_agent,
            first=True,
            stronger=opened.stronger,
            brought_by=brought_by,
            link=opened.link,
            installed_at=installed if self._sends_times else None,
            signals=person.app_signals,
            place=opened.place,
            eu=person.eu,
        )

    def _plan_use(self, person: Person, since: float) -> None:
        for _ in range(self._times(self._city.opens_per_day)):
            at = self._moment()
            if at > since:
                self._plan(at, partial(self._use, person))

    def _use(self, person: Person, at: float) -> None:
        self._opens.append(self._open(person, at, self._people.place(person, at)))

    def _open(
        self, person: Person, at: float, place: Place, *, stronger: bool = False, link: int | None = None
    ) -> Opened:
        return Opened(
            at=at,
            person=person.number,
            install=f"{person.number}-{person.installs}",
            ip=self._ip(person, place, at),
            platform=person.phone.platform,
            user_agent=person.phone.app_agent,
            stronger=stronger,
            link=link,
            place=place[0],
        )

    def _ip(self, person: Person, place: Place, at: float) -> str:
        return self._people.address(person, place, at)

    def _record(self, person: Person, at: float, link: int, agent: str, system: str, ip: str) -> Clicked:
        city = self._city
        late = self._random.expovariate(1 / city.late_mean)
        if self._chance(city.late_rarely):
            late = self._random.uniform(0, city.late_rarely_max)
        click = Clicked(
            id=f"{len(self._clicks):016d}",
            at=at,
            dub_at=at + self._clock_difference,
            visible_at=at + late,
            link=link,
            ip=ip,
            shown_ip="" if person.eu else ip,
            user_agent=None if self._chance(city.no_user_agent) else agent,
            system=system,
            person=person.number,
            eu=person.eu,
            touched=self._chance(city.touched),
            signals=person.signals if system not in {"Mac", "Windows"} else ("", "", ""),
        )
        self._clicks.append(click)
        return click

    def _has_evidence(self, person: Person) -> bool:
        city = self._city
        own = city.clipboard if person.phone.platform == "ios" else city.referrer
        return self._chance(city.deep_link) or self._chance(own)

    def _hesitation(self) -> float:
        """Draw how long somebody takes from the click to the tap on "Get"."""
        city = self._city
        if self._chance(city.installs_much_later):
            return 300.0 * float((3 * DAY_S / 300) ** self._random.random())
        return 3 + self._random.lognormvariate(log(city.decides_median), city.decides_sigma)

    # the dice

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _times(self, per_day: float) -> int:
        """Draw how often something happens in all these days."""
        times, at = 0, self._random.expovariate(per_day)
        while at < self._city.days:
            times, at = times + 1, at + self._random.expovariate(per_day)
        return times

    def _moment(self) -> float:
        """Draw a time: people are awake from 7 to 24."""
        day = self._random.randrange(self._city.days)
        return day * DAY_S + self._random.triangular(7 * HOUR_S, DAY_S, 19 * HOUR_S)

    def _some_link(self) -> int:
        return self._random.choices(range(self._city.links), self._weights)[0]
