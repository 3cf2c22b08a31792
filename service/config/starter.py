"""The ``firstopen.toml`` that ``firstopen init`` writes, and what it says then."""

import shlex
from pathlib import Path

STARTER = """\
# firstopen.toml: which apps firstopen answers for, and where their links land.
# Secrets are not written here: this file names the variables that hold them, which are set in the
# environment or in a .env beside this file.

[apps.acme]
# In the app's binary, so not secret. The app sends it as "Authorization: Bearer dub_pk_...".
publishable_keys = ["dub_pk_acme"]
# The short-link domains that this app opens, as they are at Dub.
domains = ["acme.link"]
# Where to land when there is nothing better to say.
default_screen = "home"

# server_keys_env = "ACME_SERVER_KEYS"     # comma-separated keys of your backend, from the environment
# dub_api_key_env = "ACME_DUB_API_KEY"     # the Dub API key of this app's workspace, from the environment
# update_screen = "update"                 # for builds too old for a route, unless the route has a fallback
# schemes = ["acme"]                       # the app's own URL schemes: such destinations are handed out too
# leads = "server"                         # server keys report leads and sales. With "client", publishable
#                                          # keys do, too: anybody who takes one out of the app can report
#                                          # any customer with any click
# ip_matching = "on"                       # "off", or "consented": only opens that say "consent": true
# match_window_s = 3600                    # matching by address: a click's greatest age, to 259200 (72 h)
# first_launch_max_age_h = 72              # hours; an install that is older (installedAt) has had its first
#                                          # launch: an update that brings the SDK is no install
# crowd_limit = 3                          # more installs than this (to 1000) on one network: no match there
# ambiguous = "refuse"                     # between clicks of several links; or "latest": the latest one
# shared_networks = []                     # of relays and the like, never matched: ["203.0.113.0/24"]
# trusts_forwarded_ip = false              # true for a self-hosted Dub (VERCEL=1) that believes our X-Real-IP
# rate_limit = "500/second"                # of each key of this app, in place of limits.per_key
# analytics_calls_per_s = 2                # of /events; by Dub's plan: Business 4, Advanced 8, Enterprise 16

# Destinations and screens: WHATWG URLPatterns, the first that matches wins. Named groups become params. A
# query does not matter unless a pattern names it, nor do http, www. and a slash at the end (docs/routes.md).
# Check them, or try one: firstopen routes 'https://acme.com/product/123'
[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"
screen = "product"
# query = ["color"]                        # parameters that become params too, where the URL has them
# min_version = "2.3"                      # older builds get the fallback
# fallback = "update_product"

[[apps.acme.routes]]
pattern = "https://acme.com/category/*"
screen = "category"

# Where URLs must land: checked at every start, and by firstopen routes. Params are compared if given.
# [[apps.acme.route_tests]]
# url = "https://www.acme.com/product/123/?utm_source=ig"
# screen = "product"
# params = { id = "123" }
# app_version = "2.3"

# What one process remembers. Ages are in seconds or days.
# [cache]
# answer_ttl_s = 3600
# pending_ttl_s = 1
# memory_mb = 160                          # some 140,000 opens
# link_stale_days = 7
# unknown_link_ttl_s = 60

# How Dub is called.
# [dub]
# in_flight_max = 100                      # calls at a time, per endpoint; opens beyond it wait their budget
# timeout_ms = 10000                       # a whole call; longer than a budget: a late answer still counts
# slow_ms = 1000                           # a call that takes longer counts as failed
# breaker_failures = 10                    # so many failed calls, and this share of all calls, within
# breaker_ratio = 0.5                      # the window: Dub is not asked for breaker_open_s; then one
# breaker_window_s = 10                    # call finds out whether it answers again
# breaker_open_s = 5

# How opens, leads and sales are sent that Dub has not taken yet.
# [outbox]
# in_flight_max = 16
# backoff_min_s = 0.5
# backoff_max_s = 10
# expiry_days = 6                          # then they are dead letters: see firstopen outbox

# How long opens are kept on disk, so that a later sign-up finds its click.
# [installs]
# install_ttl_days = 90

# How many requests are taken, of each key and from each address (of IPv6: each /64). No limit unless set.
# An open that is answered from memory is never counted; addresses are not where the key is a server key.
# [limits]
# per_key = "2000/second"
# per_address = "50/second;1200/minute"

# How a stop goes: after SIGTERM not ready but still answering for drain_ms; then requests in flight
# finish, and opens still under way to Dub settle, for at most stop_ms each (whole seconds).
# [server]
# drain_ms = 1000
# stop_ms = 12000
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
