"""What was answered, against the truth."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from msgspec import Struct

from service.domain.networks import Networks
from tests.bench.simulation.city import Clicked, Days, Opened
from tests.bench.simulation.play import RETRIES_S, WINDOW_S, Given

CROWD_LIMIT = 3


class Tenth(Struct, frozen=True, rename="camel"):
    """Matches with a stated confidence in one tenth, and how many of them were right."""

    matches: int
    stated: float
    right: float


class Score(Struct, frozen=True, rename="camel"):
    """Shares are of 1."""

    first_opens: int
    matches: int
    precision: float  # matches that were right: the click, not only the link
    link_precision: float  # matches that named the right link
    recall: float  # of matchable installs on networks with no crowd
    recall_everywhere: float
    matchable: int
    matchable_no_crowd: int
    crowd_errors: int  # wrong matches on networks with a crowd
    given_twice: int  # clicks that more than one install got
    reasons: dict[str, int]  # of matchable installs that were not matched
    stated: list[tuple[float, bool]]  # the confidence of each match, and whether it was right


class Truth:
    """What was there to be found."""

    def __init__(self, days: Days, networks: Networks) -> None:
        self._networks = networks
        self._clicks = {click.id: click for click in days.clicks}
        self._seen: dict[int, list[tuple[float, int]]] = defaultdict(list)  # who was on a network, and when
        clicked = [(each.ip, each.at, each.person) for each in days.clicks]
        opened = [(each.ip, each.at, each.person) for each in days.opens]
        for ip, at, person in clicked + opened:
            key = networks.of(ip).key
            if key is not None:
                self._seen[key].append((at, person))

    def score(self, given: Sequence[Given]) -> Score:
        """Compare the answers of one rule with the truth."""
        matched = [each for each in given if each.click]
        right = [each for each in matched if self._right(each)]
        right_link = [each for each in matched if self._right_link(each)]
        matchable = [each for each in given if self._matchable(each.opened)]
        calm = [each for each in matchable if not self._is_crowd(each.opened)]
        missed = [each for each in matchable if not each.click]
        owners: dict[str, set[str]] = defaultdict(set)
        for each in matched:
            owners[each.click or ""].add(each.opened.install)
        return Score(
            first_opens=len(given),
            matches=len(matched),
            precision=_share(len(right), len(matched)),
            link_precision=_share(len(right_link), len(matched)),
            recall=_share(sum(map(self._right, calm)), len(calm)),
            recall_everywhere=_share(sum(map(self._right, matchable)), len(matchable)),
            matchable=len(matchable),
            matchable_no_crowd=len(calm),
            crowd_errors=sum(not self._right(each) and self._is_crowd(each.opened) for each in matched),
            given_twice=sum(len(installs) > 1 for installs in owners.values()),
            reasons=dict(Counter(str(each.reason) for each in missed)),
            stated=[(each.confidence, self._right(each)) for each in matched],
        )

    def _right(self, given: Given) -> bool:
        return given.click is not None and given.click == given.opened.brought_by

    def _right_link(self, given: Given) -> bool:
        brought_by = self._clicks.get(given.opened.brought_by or "")
        found = self._clicks.get(given.click or "")
        return brought_by is not None and found is not None and brought_by.link == found.link

    def _matchable(self, opened: Opened) -> bool:
        """Whether Dub showed the click that brought an install, from the network of its open, in time."""
        click = self._clicks.get(opened.brought_by or "")
        return click is not None and self._same_network(click, opened) and self._in_time(click, opened)

    def _same_network(self, click: Clicked, opened: Opened) -> bool:
        clicked_from = self._networks.of(click.shown_ip).key
        return clicked_from is not None and clicked_from == self._networks.of(opened.ip).key

    def _in_time(self, click: Clicked, opened: Opened) -> bool:
        return opened.at - click.at < WINDOW_S and click.visible_at <= opened.at + RETRIES_S[-1]

    def _is_crowd(self, opened: Opened) -> bool:
        """Whether more than ``CROWD_LIMIT`` people were on the open's network within the window before it."""
        seen = self._seen[self._networks.of(opened.ip).key or 0]
        return len({who for at, who in seen if opened.at - WINDOW_S <= at <= opened.at}) > CROWD_LIMIT


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


def calibration_error(stated: Sequence[tuple[float, bool]]) -> float:
    """Return by how much the stated confidence misses the truth, on average over all matches."""
    return sum(each.matches / len(stated) * abs(each.stated - each.right) for each in tenths(stated).values())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
