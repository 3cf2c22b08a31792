"""What is assumed of the city: one table. Shares are of 1, times in seconds unless said otherwise.

Nothing here was measured on real traffic; each line says why it is what it is. What matters most for
precision is how often an organic install falls into the hour after somebody else's click on its network.
"""

from msgspec import Struct

TUNING_SEEDS = (1, 2, 3, 4)
REPORT_SEEDS = (101, 102, 103, 104, 105)


class City(Struct, frozen=True, kw_only=True):
    """The table."""

    # the people and where they are
    people: int = 60_000
    days: int = 3
    household_sizes: tuple[float, ...] = (0.32, 0.33, 0.16, 0.13, 0.06)  # of 1 to 5 people
    employed: float = 0.5  # in an office by day, the others at home
    office_sizes: tuple[int, ...] = (4, 8, 15, 40, 120, 400)  # one address each; as many people in each size
    wifi_at_home: float = 0.85  # the rest of the time a phone at home is on its carrier
    wifi_at_work: float = 0.6
    out_of_the_house: float = 0.15  # of waking time: on the carrier
    cafe: float = 0.03  # of waking time: on a café's Wi-Fi
    cafes: int = 80
    homes_with_ipv6: float = 0.45
    prefers_ipv6: float = 0.95  # where there is IPv6, browser and app mostly agree to use it
    carriers: int = 3
    carrier_addresses: int = 4  # IPv4 exits of each carrier: hundreds of people behind each
    carriers_with_ipv6: float = 0.34  # a /64 for each phone
    carrier_moves: float = 0.1  # of connections leave by another exit than the one before
    vpn: float = 0.02  # of people, always; an address that is on no list
    vpn_addresses: int = 5
    relay: float = 0.08  # of Safari's clicks leave through a relay; apps do not
    relay_addresses: int = 12
    relay_listed: float = 0.8  # of relay addresses are among the configured shared ranges

    # their devices
    ios: float = 0.55
    ipad: float = 0.06  # of iOS devices; they call themselves Macs
    android_app_says_model: float = 0.25  # Dalvik's User-Agent, where okhttp's says nothing
    in_app_browser: float = 0.35  # of phone clicks: it names model and version, Chrome on Android does not

    # what Dub shows of a click
    no_address: float = 0.05  # people in the EU
    no_user_agent: float = 0.05
    late_mean: float = 1.5  # until an event shows up, usually
    late_rarely: float = 0.02  # of events show up later than that
    late_rarely_max: float = 60.0
    clock_difference_max: float = 30.0  # between Dub's clock and ours, another one for each seed

    # what they do
    links: int = 30  # the k-th is clicked 1/k as often as the first
    clicks_per_day: float = 0.025  # by each person
    desktop_clicks: float = 0.2
    mac_safari: float = 0.12  # of desktop clicks: what an iPad's look like
    second_link: float = 0.02  # of phone clicks are followed within minutes by one on another link
    shared_at_home: float = 0.08  # of clicks at home are followed within the hour by a housemate's, same link
    bursts: int = 5  # a post that many see at once
    burst_clicks: int = 120
    burst_length: float = 1200.0
    has_app: float = 0.06  # at the start
    app_takes_link: float = 0.7  # of links tapped by people who have the app: no web click, a deep link open
    opens_per_day: float = 3.0  # of people who have the app
    installs_after_click: float = 0.35  # of phone clicks by people without the app
    install_median: float = 75.0  # from click to first open
    install_sigma: float = 1.1  # of its logarithm
    install_much_later: float = 0.08  # of them hours later: beyond the window
    changes_network: float = 0.1  # between click and first open
    organic_per_day: float = 0.006  # installs by each person with no click: four in ten of all
    reinstalls: float = 0.04  # of installs are deleted and made again within the hour
    deep_link: float = 0.05  # of installs after a click open with their link in hand
    referrer: float = 0.8  # of Android's bring a readable install referrer
    clipboard: float = 0.4  # of iOS's let the app read the clipboard
