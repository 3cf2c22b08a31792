"""Touches: a web page of the app's owner saw a visitor on the way to the store. Pure rules.

A touch is a candidate of matching as a click is, and is stored beside the clicks. It is seen at once, and for
people in the EU, for whose clicks Dub has no address, too.

What can go wrong: one visitor is two candidates, by the page's touch and by Dub's click (they are joined
here; a touch that names its click has the click's id from the start); a touch and its click are given to two
installs (both are claimed).
"""

from collections.abc import Mapping, Sequence

from msgspec import structs

from service.domain.device_traits import may_be_one_device
from service.domain.match_odds import NO_SIGNALS, Signals
from service.domain.match_rules import CLOCK_DIFFERENCE_S, SECOND_CLICK_S, Click
from service.domain.models import App

TOUCH = "touch:"  # begins the id of a touch that names no click; no clickId of Dub has a colon


def compared_signals(app: App, signals: Signals, *, consent: bool | None) -> Signals:
    """Return the signals that may be compared by the app's settings, and by a person's consent."""
    if app.touch_signals == "on" or (app.touch_signals == "consented" and consent is True):
        return signals
    return NO_SIGNALS


def join_touches(
    clicks: Sequence[Click], owners: Mapping[str, str]
) -> tuple[tuple[Click, ...], Mapping[str, str]]:
    """Make one candidate of each touch and the click that led to its page.

    A touch that names no click is joined with the newest click on its link that its device may have made
    within the minutes before. Returns the candidates, and by their ids the installs that have claimed them.
    """
    alone = [click for click in clicks if not click.id.startswith(TOUCH)]
    if len(alone) == len(clicks):
        return tuple(clicks), owners
    joined: list[Click] = []
    owned = dict(owners)
    for touch in clicks:
        if not touch.id.startswith(TOUCH):
            continue
        click = next((each for each in alone if _led_to(each, touch)), None)
        if click is None:
            joined.append(touch)
            continue
        alone.remove(click)
        query = touch.query or click.query
        joined.append(structs.replace(touch, id=click.id, link=click.link, query=query, touch_id=touch.id))
        if touch.id in owned:
            owned.setdefault(click.id, owned[touch.id])
    return (*joined, *alone), owned


def _led_to(click: Click, touch: Click) -> bool:
    before_ms = touch.at_ms - click.at_ms
    return (
        not click.touch_id
        and not click.opened_app
        and (click.link.domain, click.link.key) == (touch.link.domain, touch.link.key)
        and -CLOCK_DIFFERENCE_S * 1000 <= before_ms <= SECOND_CLICK_S * 1000
        and may_be_one_device(click.device, touch.device)
    )
