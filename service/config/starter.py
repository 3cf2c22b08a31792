"""The ``firstopen.toml`` that ``firstopen init`` writes, and what it says then."""

import shlex
from pathlib import Path

STARTER = """\
# firstopen.toml: which apps firstopen answers for, and where their links land.
# Secrets are not written here: this file names the variables that hold them, which are set in the
# environment or in a .env beside this file.

[apps.acme]
publishable_keys = ["dub_pk_acme"]         # in every copy of the app, so not secret
domains = ["acme.link"]                    # the domains of the app's short links at Dub
default_screen = "home"                    # the screen to show if there is nothing better

# server_keys_env = "ACME_SERVER_KEYS"     # variable with your backend's keys, separated by commas
# dub_api_key_env = "ACME_DUB_API_KEY"     # variable with the Dub API key of this app's workspace
# update_screen = "update"                 # for builds too old for a route that has no fallback
# schemes = ["acme"]                       # the app's own URL schemes; such URLs are handed out, too
# leads = "server"                         # only server keys report leads and sales. With "client",
#                                          # publishable keys do, too: anybody who takes one out of the
#                                          # app can then report any customer with any click
# ip_matching = "on"                       # match first launches by IP address. "consented": only opens
#                                          # with "consent": true
# match_window_s = 3600                    # seconds; a click that is older is not matched by IP address
# first_launch_max_age_h = 72              # hours; an install that is older (installedAt) has had its first
#                                          # launch: it is an update
# crowd_limit = 3                          # no match by IP on a network from which more installs opened
# ambiguous = "refuse"                     # no match between clicks on several links that nothing tells
#                                          # apart. "latest": the latest click
# shared_networks = []                     # never matched, such as a relay's: ["203.0.113.0/24"]
# trusts_forwarded_ip = false              # true for a self-hosted Dub (VERCEL=1) that believes X-Real-IP
# rate_limit = "500/second"                # for each key of this app, instead of limits.per_key
# analytics_calls_per_s = 2                # calls to /events in a second, by Dub's plan: Business 4,
#                                          # Advanced 8, Enterprise 16

# Destinations and screens: the first route whose pattern matches wins. See docs/routes.md.
# Check them, or try one: firstopen routes 'https://acme.com/product/123'
[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"   # a WHATWG URLPattern; named groups become params
screen = "product"                         # the screen to show
# query = ["color"]                        # parameters of the URL that become params, too
# min_version = "2.3"                      # the first build that has this screen
# fallback = "update_product"              # the screen for older builds, instead of update_screen

[[apps.acme.routes]]
pattern = "https://acme.com/category/*"
screen = "category"

# Where URLs must land: checked at every start, and by firstopen routes.
# [[apps.acme.route_tests]]
# url = "https://www.acme.com/product/123/?utm_source=ig"  # the URL that is opened
# screen = "product"                       # the screen that it must show
# params = { id = "123" }                  # the params that it must have; not compared if left out
# app_version = "2.3"                      # the build that opens it; the newest if left out

# What one process remembers.
# [cache]
# answer_ttl_s = 3600                      # seconds for which an answer is repeated; Dub's own hour
# memory_mb = 160                          # memory for answers and links: some 140,000 opens
# link_stale_days = 7                      # days for which a link is remembered, in case Dub is down
# unknown_link_ttl_s = 60                  # seconds for which Dub's "no such link" is remembered

# How Dub is called.
# [dub]
# in_flight_max = 100                      # calls at a time to one endpoint; more wait within their budgets
# timeout_ms = 10000                       # of a whole call; longer than a budget: a late answer still counts
# slow_ms = 1000                           # a call that takes longer counts as failed
# breaker_failures = 10                    # failures in 10 s, half of all calls, open the circuit breaker
# breaker_open_s = 5                       # seconds without calls; then one call finds out if Dub is back

# How opens, leads and sales are sent that Dub has not taken yet.
# [outbox]
# in_flight_max = 16                       # leads at a time, and as many sales
# expiry_days = 6                          # days until an entry is a dead letter: see firstopen outbox

# How long opens are kept, so that a later sign-up finds its click.
# [installs]
# install_ttl_days = 90                    # days

# How many requests are taken. No limit unless set; repeats of an open are never counted.
# [limits]
# per_key = "2000/second"                  # with each key
# per_address = "50/second;1200/minute"    # from each IPv4 address or IPv6 /64; not with server keys

# How a stop goes.
# [server]
# drain_ms = 1000                          # milliseconds after SIGTERM: not ready, but still answering
# stop_ms = 12000                          # then requests in flight finish, and after them opens under way
#                                          # to Dub, for at most so many milliseconds each (whole seconds)
"""


def next_steps(path: Path, env_path: Path, *, is_new: bool, has_secret: bool) -> str:
    """Return what ``firstopen init`` prints: what it has written, and the commands to run next."""
    config, env = shlex.quote(str(path)), shlex.quote(str(env_path))
    commands = [f"export FIRSTOPEN_CONFIG={config}", "firstopen routes", "firstopen serve"]
    if is_new:
        written = f"wrote {config}, and {env} with a new FIRSTOPEN_SECRET: keep that out of version control"
    elif has_secret:
        written = f"wrote {config}; {env} is left as it is"
    else:
        written = f"wrote {config}; {env} is left as it is, and has no FIRSTOPEN_SECRET"
        commands.insert(0, f"""printf '\\nFIRSTOPEN_SECRET=%s\\n' "$(openssl rand -hex 32)" >> {env}""")
    return "\n  ".join([f"{written}; next:", *commands])
