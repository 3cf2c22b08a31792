"""What is assumed of people, networks and phones: one table for each kind of city.

Shares are of 1, times in seconds unless said otherwise. Nothing here was measured on firstopen's own traffic;
each line says where its value comes from, or why it is plausible. Published figures:

- AppsFlyer's glossary, "click to install time": 75 % of first opens follow within an hour of the click, 94 %
  within a day.
- Cloudflare, "One IP address, many users" (2025): carrier-grade NAT puts 100 and more devices behind an IPv4
  address. RFC 7422 and vendors' guides plan 64 to 1,000 ports for each subscriber, so 64 to 1,000
  subscribers.
- RFC 4787 and RFC 6888 ("paired" pooling): a phone keeps its public address while its NAT mappings live.
- Eurostat and the US census: 2.2 to 2.5 people in a household; India's and Brazil's: 4.4 and 2.8.
- Google's IPv6 statistics: about half of all users have IPv6; in mobile networks of the US and India most.

A seed varies its city: the figures in ``VARIED`` are drawn from around the table's values, so that no two
seeds have the same organic share, delays or number of people behind an address.
"""

from collections.abc import Mapping
from random import Random

from msgspec import Struct, structs


class City(Struct, frozen=True, kw_only=True):
    """A town of a quarter million people's habits, as in a large country in Europe or the US."""

    # how many people, and how often
    first_opens_per_1000: float = 2.0  # per day; see DENSITIES
    first_opens: int = 3000  # in all days together: decides how many people live here
    days: int = 3
    warm_up_days: int = 1  # not scored: the service has run for a day before

    # where people are
    household_sizes: tuple[float, ...] = (0.32, 0.33, 0.16, 0.13, 0.06)  # of 1, 2, ... people
    employed: float = 0.5  # of people, in an office or shop from 9 to 17:30
    office_sizes: tuple[int, ...] = (4, 8, 15, 40, 120, 400)  # one address each; as many people in each size
    students: float = 0.03  # of people, on a campus from 9 to 17:30 instead
    campus_people: int = 8000
    people_per_campus_address: int = 250  # NAT pools of universities: a /27 for a campus
    wifi_at_home: float = 0.85  # the rest of the time, a phone at home is on its carrier
    wifi_at_work: float = 0.6
    out_of_the_house: float = 0.15  # of waking time: on the carrier
    cafe: float = 0.03  # of waking time: on the Wi-Fi of a café, shop, hotel or train
    people_per_cafe: int = 800

    # how networks show them
    homes_behind_nat: float = 0.1  # of homes share an IPv4 address: fixed-line CGNAT, DS-Lite
    homes_per_address: int = 32
    homes_with_ipv6: float = 0.45
    carriers_with_ipv6: float = 0.5  # of phones on carriers have a /64 of their own
    prefers_ipv6: float = 0.95  # where there is IPv6, browser and app mostly agree to use it
    people_per_carrier_address: int = 150  # attached phones that share a public IPv4 address at one time
    carrier_keeps_address: float = 2 * 3600.0  # on average
    vpn: float = 0.02  # of people, always; an address that is on no list
    people_per_vpn_address: int = 100
    relay: float = 0.08  # of Safari's clicks leave through iCloud Private Relay (paying users); apps do not
    relay_listed: float = 0.8  # of relay addresses are among the configured shared_networks
    eu: float = 0.05  # of people: Dub shows no address for their clicks

    # their devices
    ios: float = 0.55
    ipad: float = 0.06  # of iOS devices; they call themselves Macs
    android_app_says_model: float = 0.25  # Dalvik's User-Agent, where okhttp's says nothing
    in_app_browser: float = 0.35  # of phone clicks: it names model and version, Chrome on Android does not
    languages: tuple[tuple[str, float], ...] = (("en-US", 0.75), ("es-US", 0.13), ("zh-CN", 0.05), ("", 0.07))
    other_timezone: float = 0.02  # of people: travellers
    signals_differ: float = 0.03  # of installs: display zoom, another language in the browser

    # what Dub and touches show of a click
    no_user_agent: float = 0.03
    late_mean: float = 1.5  # until an event shows up, usually
    late_rarely: float = 0.02  # of events show up later than that
    late_rarely_max: float = 60.0
    clock_difference_max: float = 10.0  # between Dub's clock and ours (both on NTP), other for each seed
    touched: float = 0.96  # of clicks land on a page with touch.js and run it, where links lead to one

    # what they do
    links: int = 30  # the k-th is clicked 1/k as often as the first
    desktop_clicks: float = 0.2
    mac_safari: float = 0.12  # of desktop clicks: what an iPad's look like
    second_link: float = 0.02  # of phone clicks are followed within minutes by one on another link
    taps_again: float = 0.08  # of phone clicks: the same link within 5 minutes, often in the other browser
    shared_at_home: float = 0.08  # of clicks at home are followed within the hour by a housemate's, same link
    in_bursts: float = 0.15  # of clicks follow posts that many see at once
    burst_clicks: int = 120
    burst_length: float = 1200.0
    installs_after_click: float = 0.25  # of phone clicks; landing pages for apps convert 10 to 40 %
    organic: float = 0.5  # of first opens follow no click
    active_users_per_install: float = 5.0  # people who use the app on a day, for each that installs it
    opens_per_day: float = 1.5  # of each of them
    app_takes_link: float = 0.7  # of links tapped by people who have the app: no web click, a deep link open
    decides_median: float = 25.0  # from the click to the tap on "Get" in the store
    decides_sigma: float = 1.2  # of its logarithm
    downloads_median: float = 25.0  # 50 to 150 MB on Wi-Fi or 4G
    downloads_sigma: float = 0.8
    opens_at_once: float = 0.7  # of installs are opened as soon as they are there; others later
    opens_later_median: float = 900.0
    opens_later_sigma: float = 1.3
    installs_much_later: float = 0.3  # of installs after a click: 5 minutes to 3 days later, log-uniform
    changes_network: float = 0.15  # between click and first open: leaves home, or Wi-Fi for the download
    tells_others: float = 0.04  # of installs after a click: somebody there looks the app up within the hour
    reinstalls: float = 0.03  # of installs are deleted and made again within the hour
    sends_times: float = 0.5  # probability that a seed's app sends installedAt
    deep_link: float = 0.03  # of installs after a click open with their link in hand
    referrer: float = 0.7  # of Android's bring a readable install referrer
    clipboard: float = 0.3  # of iOS's let the app read the clipboard


_MOBILE_FIRST = City(  # India, Indonesia, Brazil, Nigeria: the phone is the only computer
    household_sizes=(0.08, 0.13, 0.2, 0.27, 0.32),
    employed=0.4,
    office_sizes=(2, 4, 8, 15, 40),
    wifi_at_home=0.35,
    wifi_at_work=0.3,
    out_of_the_house=0.25,
    homes_behind_nat=0.5,
    people_per_carrier_address=500,
    downloads_median=50.0,
    carriers_with_ipv6=0.65,
    homes_with_ipv6=0.35,
    relay=0.01,
    ios=0.08,
    desktop_clicks=0.05,
    languages=(("en-IN", 0.5), ("hi-IN", 0.3), ("bn-IN", 0.1), ("", 0.1)),
)
_METROPOLIS = City(  # flats, offices and public Wi-Fi; half of the time away from home
    household_sizes=(0.5, 0.3, 0.1, 0.07, 0.03),
    employed=0.65,
    out_of_the_house=0.25,
    cafe=0.06,
    people_per_cafe=1500,
    people_per_carrier_address=200,
    languages=(("en-GB", 0.6), ("en-US", 0.15), ("fr-FR", 0.08), ("", 0.17)),
)

CITIES: Mapping[str, City] = {
    "suburb": City(homes_behind_nat=0.02, out_of_the_house=0.1, cafe=0.01),
    "metropolis": _METROPOLIS,
    "campus": City(students=0.35, employed=0.25, household_sizes=(0.35, 0.2, 0.2, 0.15, 0.1), in_bursts=0.3),
    "cafés": structs.replace(_METROPOLIS, cafe=0.15, people_per_cafe=2500),
    "mobile first": _MOBILE_FIRST,
    "carrier NAT": City(  # no IPv6, few addresses, on carriers half of the time
        carriers_with_ipv6=0.05, homes_with_ipv6=0.2, people_per_carrier_address=600, wifi_at_home=0.6
    ),
    "fixed NAT": City(homes_behind_nat=0.7, homes_per_address=48, homes_with_ipv6=0.6),  # DS-Lite regions
    "EU": City(eu=1.0, languages=(("de-DE", 0.8), ("en-US", 0.06), ("tr-TR", 0.05), ("", 0.09))),
    "organic": City(organic=0.9),
    "campaign": City(organic=0.1, in_bursts=0.5, installs_after_click=0.4),
    "few convert": City(installs_after_click=0.08),
    "launch": City(active_users_per_install=0.05, in_bursts=0.5),  # the first days: nobody has the app yet
}

# First opens for each 1,000 people and day. 20 is the first day of a hit that a country talks about (Threads:
# 30 million on its first day), 2 a successful launch, 0.2 a well-known app on an ordinary day (70,000 a year
# in a city of a million).
DENSITIES: tuple[float, ...] = (0.2, 2.0, 20.0)

# By how much a seed's city may differ from the table: each is multiplied or divided by up to this.
VARIED: Mapping[str, float] = {
    "people_per_carrier_address": 1.5,
    "homes_per_address": 1.5,
    "installs_after_click": 1.3,
    "decides_median": 1.3,
    "downloads_median": 1.3,
    "installs_much_later": 1.3,
    "changes_network": 1.4,
    "shared_at_home": 1.4,
    "active_users_per_install": 1.5,
    "burst_clicks": 1.5,
    "people_per_cafe": 1.3,
}
_ORGANIC_BY = 0.07


def varied(city: City, random: Random) -> City:
    """Return a city like this one: what ``VARIED`` names is different, and the share of organic installs."""
    changes: dict[str, float | int] = {}
    for name, factor in VARIED.items():
        value = getattr(city, name)
        drawn = value * factor ** random.uniform(-1, 1)
        changes[name] = round(drawn) if isinstance(value, int) else drawn
    organic = city.organic + random.uniform(-_ORGANIC_BY, _ORGANIC_BY)
    return structs.replace(city, organic=min(max(organic, 0.08), 0.92), **changes)
