"""The people of a city and where they are: which address a person is seen with at a time.

People are made when they first do something, because in a city of millions few do. Who lives, works and
studies together follows from a person's number.
"""

from bisect import bisect_right
from itertools import accumulate
from random import Random
from typing import Literal

from msgspec import Struct

from tests.bench.simulation.devices import Phone, make_phone
from tests.bench.simulation.parameters import City

DAY_S = 86_400.0
HOUR_S = 3600.0
RELAY_LISTED = "172.224.0.0/16"  # the relay's ranges that an operator has listed

_PHONES = 3000  # different ones
_HOMES = 100  # in a block, with every size of household
_STEPS = 1_000_003

Kind = Literal["home", "office", "campus", "cafe", "carrier", "vpn"]
Place = tuple[Kind, int]

_PREFIX: dict[Kind, int] = {"home": 84, "office": 61, "campus": 141, "cafe": 62, "carrier": 31, "vpn": 45}
_SHARED_HOMES = 85


class Person(Struct):
    """Somebody with a phone."""

    number: int
    home: int
    work: Place | None
    phone: Phone
    has_carrier_ipv6: bool
    vpn: int | None
    eu: bool
    signals: tuple[str, str, str]  # language, timezone, screen, as a page sees them
    app_signals: tuple[str, str, str]  # as the app does
    moves_at: int  # when the carrier gives the phone another address, within each time that it keeps one
    has_app: bool = False
    installs: int = 0


class People:
    """Makes the people of a city when they are first asked for."""

    def __init__(self, city: City, random: Random) -> None:
        self._city = city
        self._random = random
        per_day = city.first_opens_per_1000 / 1000
        self.count = int(city.first_opens / city.days / per_day)
        self._known: dict[int, Person] = {}
        self._phones = [make_phone(city, random) for _ in range(_PHONES)]
        sizes = [
            size for size, share in enumerate(city.household_sizes, 1) for _ in range(round(share * _HOMES))
        ]
        random.shuffle(sizes)
        self._ends = list(accumulate(sizes))
        self._homes = len(sizes)
        self._languages = [language for language, _ in city.languages]
        self._language_shares = [share for _, share in city.languages]
        self._carrier_addresses = self._shared_by(city.people_per_carrier_address)

    def __getitem__(self, number: int) -> Person:
        """Return a person, made at the first call."""
        person = self._known.get(number)
        if person is None:
            person = self._known[number] = self._make(number)
        return person

    def anybody(self) -> Person:
        """Return one of all people."""
        return self[self._random.randrange(self.count)]

    def housemates(self, person: Person) -> list[Person]:
        """Return those who live with a person."""
        block, within = divmod(person.number, self._ends[-1])
        home = bisect_right(self._ends, within)
        first = (self._ends[home - 1] if home else 0) + block * self._ends[-1]
        last = self._ends[home] + block * self._ends[-1]
        return [self[number] for number in range(first, last) if number != person.number]

    def others_at(self, person: Person, place: Place) -> list[Person]:
        """Return some of those who are where a person is: housemates, or colleagues."""
        kind, _ = place
        if kind == "home":
            return self.housemates(person)
        if kind in {"office", "campus", "cafe"}:
            other = self.anybody()
            return [] if other.has_app or other is person else [other]
        return []

    def place(self, person: Person, at: float) -> Place:
        """Draw where a person is at a time."""
        city = self._city
        if person.vpn is not None:
            return "vpn", person.vpn
        hour = at % DAY_S / HOUR_S
        dice = self._random.random()
        waking = 7 <= hour < 24
        if waking and dice < city.cafe:
            return "cafe", self._random.randrange(self._shared_by(city.people_per_cafe))
        if waking and dice < city.cafe + city.out_of_the_house:
            return "carrier", 0
        if person.work is not None and 9 <= hour < 17.5:
            return person.work if self._chance(city.wifi_at_work) else ("carrier", 0)
        return ("home", person.home) if self._chance(city.wifi_at_home) else ("carrier", 0)

    def address(self, person: Person, place: Place, at: float) -> str:
        """Return what a connection from a place is seen with at a time."""
        city = self._city
        kind, number = place
        if kind == "carrier":
            if person.has_carrier_ipv6 and self._chance(city.prefers_ipv6):
                return self._ipv6("2a01", person.number)
            turn = int((at + person.moves_at) / city.carrier_keeps_address)
            return _ipv4(_PREFIX[kind], hash((person.number, turn)) % self._carrier_addresses)
        if kind == "home":
            if self._is_true(number, 1, city.homes_with_ipv6) and self._chance(city.prefers_ipv6):
                return self._ipv6("2a00", number)
            if self._is_true(number, 2, city.homes_behind_nat):
                homes = self.count * self._homes // self._ends[-1]
                addresses = max(int(homes * city.homes_behind_nat / city.homes_per_address), 1)
                return _ipv4(_SHARED_HOMES, hash((number, 3)) % addresses)
        if kind == "campus":
            pool = city.campus_people // city.people_per_campus_address
            number = number * pool + hash((person.number, int(at / HOUR_S))) % pool
        return _ipv4(_PREFIX[kind], number)

    def relay(self) -> str:
        """Draw a relay's address."""
        number = self._random.randrange(self._shared_by(3000))
        listed = self._random.random() < self._city.relay_listed
        return _ipv4(172, (224 << 16) + number % 65_536) if listed else _ipv4(104, number)

    def _make(self, number: int) -> Person:
        city, random = self._city, self._random
        block, within = divmod(number, self._ends[-1])
        phone = random.choice(self._phones)
        language = random.choices(self._languages, self._language_shares)[0] or f"x{random.randrange(20)}"
        timezone = "Elsewhere" if self._chance(city.other_timezone) else "Here"
        seen = [language, timezone, phone.screen]
        told = list(seen)
        if self._chance(city.signals_differ):
            told[random.choice((0, 2))] = "other"
        return Person(
            number=number,
            home=block * self._homes + bisect_right(self._ends, within),
            work=self._work(),
            phone=phone,
            has_carrier_ipv6=self._chance(city.carriers_with_ipv6),
            vpn=random.randrange(self._vpn_addresses) if self._chance(city.vpn) else None,
            eu=self._chance(city.eu),
            signals=(seen[0], seen[1], seen[2]),
            app_signals=(told[0], told[1], told[2]),
            moves_at=random.randrange(int(city.carrier_keeps_address)),
        )

    @property
    def _vpn_addresses(self) -> int:
        return max(int(self.count * self._city.vpn / self._city.people_per_vpn_address), 1)

    def _work(self) -> Place | None:
        city, random = self._city, self._random
        dice = random.random()
        if dice < city.students:
            campuses = max(int(self.count * city.students / city.campus_people), 1)
            return "campus", random.randrange(campuses)
        if dice >= city.students + city.employed:
            return None
        # as many people in each size: the offices of one size have numbers of their own
        kind = random.randrange(len(city.office_sizes))
        employed = self.count * city.employed / len(city.office_sizes)
        offices = max(int(employed / city.office_sizes[kind]), 1)
        return "office", random.randrange(offices) * len(city.office_sizes) + kind

    def _shared_by(self, people: float) -> int:
        return max(int(self.count / people), 1)

    def _is_true(self, number: int, salt: int, share: float) -> bool:
        """Return whether something is true of a home, for a share of them: always the same answer."""
        return hash((number, salt)) % _STEPS < share * _STEPS

    def _ipv6(self, prefix: str, number: int) -> str:
        """Return an address of a /64; devices change the rest of theirs."""
        return f"{prefix}:{number >> 16:x}:{number & 65_535:x}:1:{self._random.getrandbits(16):x}::1"

    def _chance(self, share: float) -> bool:
        return self._random.random() < share


def _ipv4(prefix: int, number: int) -> str:
    return f"{prefix}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
