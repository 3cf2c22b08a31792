"""What was answered, against the truth."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from tests.bench.simulation.city import Clicked, Days, Opened
from tests.bench.simulation.play import RETRIES_S, WINDOW_S, Evidence, Given, network_of

CROWD_S = 86_400
CROWD_LIMIT = 3  # more people than this on a network within CROWD_S are a crowd


class Tenth(Struct, frozen=True, rename="camel"):
    """Matches with a stated confidence in one tenth, and how many of them were right."""

    matches: int
    stated: float
    right: float


class Score(Struct, frozen=True, rename="camel"):
    """Counts; scores of several cities can be added."""

    first_opens: int = 0
    matches: int = 0
    right: int = 0
    very_click: int = 0  # of these, the last click, where the person clicked the link several times
    matchable: int = 0  # installs whose click was shown on their network, in time
    found: int = 0  # of these, matched rightly
    calm: int = 0  # matchable installs on networks with no crowd
    found_calm: int = 0
    quiet_hour: int = 0  # matchable installs on networks with no crowd within the hour before
    found_quiet_hour: int = 0
    eu_calm: int = 0  # calm ones of visitors from the EU
    found_eu_calm: int = 0
    given_twice: int = 0  # clicks that more than one install got
    errors: Mapping[str, int] = {}  # wrong matches, by why
    missed: Mapping[str, int] = {}  # matchable installs that were not matched, by reason
    stated: Sequence[tuple[float, bool]] = ()  # the confidence of each match, and whether it was right

    @property
    def precision(self) -> float:
        """Return the share of matches that named a right click."""
        return _share(self.right, self.matches)

    @property
    def recall(self) -> float:
        """Return the share of matchable installs that were given their click."""
        return _share(self.found, self.matchable)

    @property
    def recall_calm(self) -> float:
        """Return the recall on networks with no crowd."""
        return _share(self.found_calm, self.calm)

    @property
    def recall_quiet_hour(self) -> float:
        """Return the recall on networks with no crowd within the hour before."""
        return _share(self.found_quiet_hour, self.quiet_hour)

    @property
    def recall_eu_calm(self) -> float:
        """Return the recall of visitors from the EU on networks with no crowd."""
        return _share(self.found_eu_calm, self.eu_calm)


def added(scores: Iterable[Score]) -> Score:
    """Add scores up."""
    sums: dict[str, int] = Counter()
    errors: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    stated: list[tuple[float, bool]] = []
    for score in scores:
        for name in Score.__struct_fields__:
            value = getattr(score, name)
            if isinstance(value, int):
                sums[name] += value
        errors.update(score.errors)
        missed.update(score.missed)
        stated += score.stated
    return Score(**sums, errors=errors, missed=missed, stated=stated)


class Truth:
    """What was there to be found."""

    def __init__(self, days: Days, evidence: Evidence = "clicks") -> None:
        self._evidence = evidence
        self._clicks = {click.id: click for click in days.clicks}
        self._seen: dict[int, list[tuple[float, int]]] = defaultdict(list)  # who was on a network, and when
        clicked = [(each.ip, each.at, each.person) for each in days.clicks]
        opened = [(each.ip, each.at, each.person) for each in days.opens]
        for ip, at, person in clicked + opened:
            key = network_of(ip).key
            if key is not None:
                self._seen[key].append((at, person))

    def score(self, given: Sequence[Given]) -> Score:
        """Compare the answers of one rule with the truth."""
        matched = [each for each in given if each.click]
        matchable = [each for each in given if self._matchable(each.opened)]
        calm = [each for each in matchable if not self._is_crowd(each.opened, CROWD_S)]
        quiet_hour = [each for each in matchable if not self._is_crowd(each.opened, WINDOW_S)]
        eu_calm = [each for each in calm if each.opened.eu]
        owners: dict[str, set[str]] = defaultdict(set)
        for each in matched:
            owners[each.click or ""].add(each.opened.install)
        return Score(
            first_opens=len(given),
            matches=len(matched),
            right=sum(map(self._right, matched)),
            very_click=sum(each.click == each.opened.brought_by for each in matched),
            matchable=len(matchable),
            found=sum(map(self._right, matchable)),
            calm=len(calm),
            found_calm=sum(map(self._right, calm)),
            quiet_hour=len(quiet_hour),
            found_quiet_hour=sum(map(self._right, quiet_hour)),
            eu_calm=len(eu_calm),
            found_eu_calm=sum(map(self._right, eu_calm)),
            given_twice=sum(len(installs) > 1 for installs in owners.values()),
            errors=Counter(self._error(each) for each in matched if not self._right(each)),
            missed=Counter(str(each.reason) for each in matchable if not each.click),
            stated=[(each.confidence, self._right(each)) for each in matched],
        )

    def _error(self, given: Given) -> str:
        """Say why a match is wrong: whose click it is, and where."""
        clicked, opened = self._clicks[given.click or ""], given.opened
        if clicked.person == opened.person:
            return f"the person's click {'on another link' if opened.brought_by else 'at a reinstall'}"
        own = self._clicks.get(opened.brought_by or "")
        why = (
            "organic"
            if own is None
            else "own click here"
            if self._matchable(opened)
            else "own click elsewhere"
        )
        return f"{why}, {opened.place}"

    def _right(self, given: Given) -> bool:
        """Whether a match named the click that brought the install.

        Somebody who taps a link twice, often in two browsers, was brought by either click.
        """
        right, found = self._clicks.get(given.opened.brought_by or ""), self._clicks.get(given.click or "")
        return (
            right is not None
            and found is not None
            and (right.person, right.link) == (found.person, found.link)
        )

    def _matchable(self, opened: Opened) -> bool:
        """Whether the click that brought an install was shown, from the network of its open, in time."""
        click = self._clicks.get(opened.brought_by or "")
        return click is not None and self._same_network(click, opened) and self._in_time(click, opened)

    def _same_network(self, click: Clicked, opened: Opened) -> bool:
        touched = click.touched and self._evidence == "touches"
        clicked_from = network_of(click.ip if touched else click.shown_ip).key
        return clicked_from is not None and clicked_from == network_of(opened.ip).key

    def _in_time(self, click: Clicked, opened: Opened) -> bool:
        return opened.at - click.at < WINDOW_S and click.visible_at <= opened.at + RETRIES_S[-1]

    def _is_crowd(self, opened: Opened, within_s: float) -> bool:
        """Return True if more than ``CROWD_LIMIT`` people were on the open's network in the time before."""
        seen = self._seen[network_of(opened.ip).key or 0]
        return len({who for at, who in seen if opened.at - within_s <= at <= opened.at}) > CROWD_LIMIT


def tenths(stated: Sequence[tuple[float, bool]]) -> dict[str, Tenth]:
    """Sort matches by their stated confidence, in tenths."""
    sorted_in: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in stated:
        sorted_in[min(int(confidence * 10), 9)].append((confidence, right))
    return {
        f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}": Tenth(
            len(those),
            round(sum(confidence for confidence, _ in those) / len(those), 3),
            round(sum(right for _, right in those) / len(those), 3),
        )
        for tenth, those in sorted(sorted_in.items())
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
