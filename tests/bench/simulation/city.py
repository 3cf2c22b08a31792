"""Three days of a city, from a seed: every click, every open, and which click brought which install."""

import heapq
from collections.abc import Callable
from functools import partial
from itertools import count
from math import log
from random import Random

from msgspec import Struct

from service.domain.device_identity import Platform
from tests.bench.simulation.devices import DESKTOP, Phone, mac_safari, make_phone
from tests.bench.simulation.parameters import City

DAY_S = 86_400.0
HOUR_S = 3600.0
_PHONES = 2000  # different ones

RELAY_LISTED = "172.224.0.0/16"  # the relay's ranges that an operator has listed


class Clicked(Struct, frozen=True):
    """A click, with what Dub shows of it and when."""

    id: str
    at: float  # our clock
    dub_at: float  # Dub's
    visible_at: float
    link: int
    ip: str  # truly
    shown_ip: str
    user_agent: str | None
    system: str
    person: int


class Opened(Struct, frozen=True):
    """An open of the app.

    ``brought_by`` is the truth: the last click on the same phone within the hour before a first open,
    whatever the person's reason; else the click that made them install it later.
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


class Days(Struct, frozen=True):
    """All that happened."""

    clicks: list[Clicked]
    opens: list[Opened]


class _Person(Struct):
    number: int
    home: int
    office: int | None
    phone: Phone
    carrier: int
    vpn: int | None
    has_app: bool
    exit: int
    installs: int = 0
    last_click: Clicked | None = None  # on the phone


class Town:
    """The people, the addresses that they are on, and the dice."""

    def __init__(self, city: City, seed: int) -> None:
        self._city = city
        self._random = Random(seed)
        self._clock_difference = self._random.uniform(-1, 1) * city.clock_difference_max
        self._clicks: list[Clicked] = []
        self._opens: list[Opened] = []
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._turn = count()
        self._people = self._settle()
        self._homes = self._by_home()
        self._ipv6_homes = {home for home in self._homes if self._chance(city.homes_with_ipv6)}
        self._weights = [1 / rank for rank in range(1, city.links + 1)]

    def live(self) -> Days:
        """Let the days pass, in order."""
        city = self._city
        for person in self._people:
            for _ in range(self._times(city.clicks_per_day)):
                self._plan(self._moment(), partial(self._tap, person, link=self._some_link()))
            for _ in range(self._times(city.organic_per_day)):
                self._plan(self._moment(), partial(self._install, person, click=None))
            if person.has_app:
                self._plan_use(person, 0.0)
        for _ in range(city.bursts):
            began, link = self._moment(), self._some_link()
            for person in self._random.sample(self._people, city.burst_clicks):
                at = began + self._random.uniform(0, city.burst_length)
                self._plan(at, partial(self._tap, person, link=link))
        while self._agenda:
            at, _, act = heapq.heappop(self._agenda)
            act(at)
        return Days(self._clicks, self._opens)

    def _plan(self, at: float, act: Callable[[float], None]) -> None:
        if at < self._city.days * DAY_S:
            heapq.heappush(self._agenda, (at, next(self._turn), act))

    def _tap(self, person: _Person, at: float, *, link: int, follows: bool = False) -> None:
        """Tap a link, and do what people then do."""
        city = self._city
        if self._chance(city.desktop_clicks):
            mac = self._chance(city.mac_safari)
            agent = mac_safari(self._random) if mac else DESKTOP
            self._record(person, at, link, agent, "Mac" if mac else "Windows")
            return
        if person.has_app and self._chance(city.app_takes_link):
            opened = self._open(person, at, self._address(person, at), stronger=True, link=link)
            self._opens.append(opened)
            return
        click = self._phone_click(person, at, link)
        if not follows and self._chance(city.second_link):
            again = partial(self._tap, person, link=(link + 1) % city.links, follows=True)
            self._plan(at + self._random.uniform(20, 600), again)
            return
        others = [each for each in self._homes[person.home] if each is not person]
        if others and not follows and self._chance(city.shared_at_home):
            other = partial(self._tap, self._random.choice(others), link=link, follows=True)
            self._plan(at + self._random.uniform(30, HOUR_S), other)
        if self._chance(city.installs_after_click):
            self._plan(at + self._hesitation(), partial(self._install, person, click=click))

    def _install(self, person: _Person, at: float, *, click: Clicked | None) -> None:
        """Open the app for the first time, unless it is there already."""
        if person.has_app:
            return
        city = self._city
        person.has_app = True
        self._plan_use(person, at)
        ip = self._address(person, at)
        if click is not None and self._stays(click, at):
            ip = self._same_place(click.ip)
        stronger = click is not None and self._has_evidence(person)
        link = click.link if click and stronger else None
        last = person.last_click
        brought_by = last.id if last and at - last.at < HOUR_S else click.id if click else None
        self._opens.append(
            self._open(person, at, ip, brought_by=brought_by, stronger=stronger, link=link, first=True)
        )
        if self._chance(city.reinstalls):
            self._plan(at + self._random.uniform(120, HOUR_S), partial(self._reinstall, person, ip=ip))

    def _reinstall(self, person: _Person, at: float, *, ip: str) -> None:
        person.installs += 1
        self._opens.append(self._open(person, at, self._same_place(ip), first=True))

    def _plan_use(self, person: _Person, since: float) -> None:
        for _ in range(self._times(self._city.opens_per_day)):
            at = self._moment()
            if at > since:
                self._plan(at, partial(self._use, person))

    def _use(self, person: _Person, at: float) -> None:
        self._opens.append(self._open(person, at, self._address(person, at)))

    def _stays(self, click: Clicked, at: float) -> bool:
        """Whether somebody is still where they clicked; a relay's address is nowhere that an app could be."""
        relayed = click.ip.startswith(("172.224.", "104.28."))
        return at - click.at < HOUR_S and not relayed and not self._chance(self._city.changes_network)

    def _open(
        self,
        person: _Person,
        at: float,
        ip: str,
        *,
        brought_by: str | None = None,
        stronger: bool = False,
        link: int | None = None,
        first: bool = False,
    ) -> Opened:
        return Opened(
            at=at,
            person=person.number,
            install=f"{person.number}-{person.installs}",
            ip=ip,
            platform=person.phone.platform,
            user_agent=person.phone.app_agent,
            first=first,
            stronger=stronger,
            brought_by=brought_by,
            link=link,
        )

    def _phone_click(self, person: _Person, at: float, link: int) -> Clicked:
        in_app = self._chance(self._city.in_app_browser)
        agent = person.phone.browser_agents[in_app]
        relayed = person.phone.safari and not in_app and self._chance(self._city.relay)
        ip = self._relay() if relayed else None
        person.last_click = self._record(person, at, link, agent, person.phone.dub_system, ip)
        return person.last_click

    def _record(
        self, person: _Person, at: float, link: int, agent: str, system: str, ip: str | None = None
    ) -> Clicked:
        city = self._city
        ip = ip or self._address(person, at)
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
            shown_ip="" if self._chance(city.no_address) else ip,
            user_agent=None if self._chance(city.no_user_agent) else agent,
            system=system,
            person=person.number,
        )
        self._clicks.append(click)
        return click

    def _has_evidence(self, person: _Person) -> bool:
        city = self._city
        own = city.clipboard if person.phone.platform == "ios" else city.referrer
        return self._chance(city.deep_link) or self._chance(own)

    def _hesitation(self) -> float:
        city = self._city
        if self._chance(city.install_much_later):
            return self._random.uniform(HOUR_S, DAY_S)
        return 15 + self._random.lognormvariate(log(city.install_median), city.install_sigma)

    # where people are

    def _address(self, person: _Person, at: float) -> str:
        """Return the address that a person is seen with at a time."""
        city = self._city
        if person.vpn is not None:
            return f"45.90.0.{person.vpn + 1}"
        hour = at % DAY_S / HOUR_S
        dice = self._random.random()
        waking = 8 <= hour < 23
        if waking and dice < city.cafe:
            return f"62.0.1.{self._random.randrange(city.cafes) + 1}"
        if waking and dice < city.cafe + city.out_of_the_house:
            return self._carrier(person)
        if person.office is not None and 9 <= hour < 17.5:
            on_wifi = self._chance(city.wifi_at_work)
            return f"61.{person.office >> 8}.{person.office & 255}.1" if on_wifi else self._carrier(person)
        return self._at_home(person) if self._chance(city.wifi_at_home) else self._carrier(person)

    def _at_home(self, person: _Person) -> str:
        home = person.home
        if home in self._ipv6_homes and self._chance(self._city.prefers_ipv6):
            return f"2a00:{home >> 8:x}:{home & 255:x}:1:{self._suffix()}"
        return f"84.{home >> 16}.{home >> 8 & 255}.{home & 255}"

    def _carrier(self, person: _Person) -> str:
        city = self._city
        if person.carrier < city.carriers * city.carriers_with_ipv6:
            return f"2a01:{person.number >> 8:x}:{person.number & 255:x}:1:{self._suffix()}"
        if self._chance(city.carrier_moves):
            person.exit = self._random.randrange(city.carrier_addresses)
        return f"31.{person.carrier}.0.{person.exit + 1}"

    def _same_place(self, ip: str) -> str:
        """Return what the next connection from a place is seen with: IPv6 devices move in their /64."""
        if ":" not in ip:
            return ip
        prefix = ip.split(":")[:4]
        return ":".join([*prefix, self._suffix()])

    def _suffix(self) -> str:
        return ":".join(f"{self._random.getrandbits(16):x}" for _ in range(4))

    def _relay(self) -> str:
        city = self._city
        number = self._random.randrange(city.relay_addresses)
        listed = number < city.relay_addresses * city.relay_listed
        return f"172.224.0.{number + 1}" if listed else f"104.28.0.{number + 1}"

    # who people are

    def _settle(self) -> list[_Person]:
        city, random = self._city, self._random
        phones = [make_phone(city, random) for _ in range(_PHONES)]
        homes = self._groups(city.people, [1, 2, 3, 4, 5], city.household_sizes)
        offices = self._groups(city.people, list(city.office_sizes), [1 / size for size in city.office_sizes])
        random.shuffle(offices)
        return [
            _Person(
                number=number,
                home=homes[number],
                office=offices[number] if self._chance(city.employed) else None,
                phone=random.choice(phones),
                carrier=random.randrange(city.carriers),
                vpn=random.randrange(city.vpn_addresses) if self._chance(city.vpn) else None,
                has_app=self._chance(city.has_app),
                exit=random.randrange(city.carrier_addresses),
            )
            for number in range(city.people)
        ]

    def _groups(self, people: int, sizes: list[int], weights: list[float] | tuple[float, ...]) -> list[int]:
        """Deal people into groups of these sizes; return each one's group."""
        groups: list[int] = []
        number = 0
        while len(groups) < people:
            groups += [number] * self._random.choices(sizes, weights)[0]
            number += 1
        return groups[:people]

    def _by_home(self) -> dict[int, list[_Person]]:
        homes: dict[int, list[_Person]] = {}
        for person in self._people:
            homes.setdefault(person.home, []).append(person)
        return homes

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
