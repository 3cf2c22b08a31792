"""Parse User-Agents: bot or not, and the device, browser and operating system that `/events` filters by.

ua-parser takes up to a millisecond for a new string, so it is used when a link is clicked on the web and when
events are read, but not on `/track/open`. Names are those on Dub's pages (`Mac`, `iOS`).
"""

import re
from functools import lru_cache

import msgspec

from service.sandbox.web import UNKNOWN

# Link previews and crawlers. `curl` and HTTP libraries do not count as bots, because tests click with them.
_BOT = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|preview|facebookexternalhit|whatsapp|embedly|pinterest|lighthouse"
    r"|headlesschrome|google-inspectiontool|mediapartners|bingpreview|skypeuripreview",
    re.IGNORECASE,
)
_SYSTEMS = {"Mac OS X": "Mac", "Chrome OS": "Chromium OS", "Ubuntu": "Linux"}


class Agent(msgspec.Struct, frozen=True):
    """A parsed User-Agent."""

    device: str
    browser: str
    os: str
    bot: bool


@lru_cache(maxsize=10_000)
def agent_of(user_agent: str) -> Agent:
    """Parse a User-Agent."""
    from ua_parser import parse  # noqa: PLC0415  50 ms to import, and most runs do not need it

    parsed = parse(user_agent)
    family = parsed.os.family if parsed.os else UNKNOWN
    system = _SYSTEMS.get(family, family)
    browser = parsed.user_agent.family if parsed.user_agent else UNKNOWN
    return Agent(
        device=_device(user_agent, system),
        browser="Chrome" if browser.startswith("Chrome Mobile") else browser,
        os=system,
        bot=bool(_BOT.search(user_agent)),
    )


def _device(user_agent: str, system: str) -> str:
    if "iPad" in user_agent or (
        system == "Android" and "Mozilla" in user_agent and "Mobile" not in user_agent
    ):
        return "Tablet"
    return "Mobile" if system in {"iOS", "Android"} or "Mobile" in user_agent else "Desktop"
