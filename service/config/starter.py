"""The ``firstopen.toml`` that ``firstopen init`` writes, and the text that it prints."""

import shlex
from pathlib import Path

STARTER = """\
# firstopen.toml: your apps, and where their links land.
# This file has no secrets: it names environment variables that contain them, which are set in the
# environment or in a .env file beside this file.

[apps.acme]
publishable_keys = ["dub_pk_acme"]         # part of every copy of the app, so not secret
domains = ["acme.link"]                    # the domains of the app's short links at Dub
default_screen = "home"                    # the screen to show if no route matches

# server_keys_env = "ACME_SERVER_KEYS"     # variable with your backend's keys, separated by commas
# dub_api_key_env = "ACME_DUB_API_KEY"     # variable with the Dub API key of this app's workspace
# update_screen = "update"                 # for builds too old for a route that has no fallback
# schemes = ["acme"]                       # the app's own URL schemes; URLs with them are also returned
# leads = "server"                         # only server keys may report leads and sales. With "client",
#                                          # publishable keys may, too: anybody who extracts one from the
#                                          # app can then report any customer with any click
# ip_matching = "on"                       # match first launches by IP address. "consented": only opens
#                                          # with "consent": true
# touch_signals = "off"                    # "on": compare language, time zone and screen of touches and
#                                          # opens, to tell visitors apart; "consented": if both consent.
#                                          # Read docs/privacy.md first
# match_window_s = 3600                    # seconds; older clicks are not matched by IP address
# first_launch_max_age_h = 72              # hours since installedAt; an older install is an update, not a
#                                          # first launch
# min_confidence = 0.9                     # of a match by IP: the share of such matches that are right
# ambiguous = "refuse"                     # no match if clicks on several links fit equally well.
#                                          # "latest": match the latest click
# shared_networks = []                     # networks that are never matched, such as a relay's:
#                                          # ["203.0.113.0/24"]
# trusts_forwarded_ip = false              # true for a self-hosted Dub (VERCEL=1) that trusts X-Real-IP
# rate_limit = "500/second"                # for each key of this app; replaces limits.per_key
# analytics_calls_per_s = 2                # calls to /events per second; depends on Dub's plan: Business 4,
#                                          # Advanced 8, Enterprise 16

# Destinations and screens: the first route whose pattern matches wins. See docs/routes.md.
# Check them, or try one: firstopen routes 'https://acme.com/product/123'
[[apps.acme.routes]]
pattern = "https://acme.com/product/:id"   # a WHATWG URLPattern; named groups become params
screen = "product"                         # the screen to show
# query = ["color"]                        # query parameters that also become params
# min_version = "2.3"                      # the first build that has this screen
# fallback = "update_product"              # the screen for older builds, instead of update_screen

[[apps.acme.routes]]
pattern = "https://acme.com/category/*"
screen = "category"

# Where URLs must land: checked at every start, and by firstopen routes.
# [[apps.acme.route_tests]]
# url = "https://www.acme.com/product/123/?utm_source=ig"  # the URL that is opened
# screen = "product"                       # the screen that it must show
# params = { id = "123" }                  # the params that it must have; omitted: not compared
# app_version = "2.3"                      # the build that opens it; omitted: the newest

# Which apps open the links of the domains. firstopen serves apple-app-site-association and assetlinks.json
# for domains that point at it; firstopen doctor checks what each domain serves.
# [apps.acme.ios]
# app_ids = ["ABCDE12345.com.acme.app"]    # team id and bundle id
# paths = ["*"]                            # paths that open the app; "NOT /help/*" excludes some
# [apps.acme.android]
# package = "com.acme.app"                 # the application id
# sha256_cert_fingerprints = ["FINGERPRINT"]
#                                          # of the signing certificates: Play Console, App integrity

# Tell your backend what becomes of opens, leads and installs. See docs/webhooks.md.
# [apps.acme.webhook]
# url_env = "ACME_WEBHOOK_URL"             # variable with the URL that events are posted to
# secret_env = "ACME_WEBHOOK_SECRET"       # variable with the secret that signs them: whsec_ and base64.
#                                          # Several, separated by spaces or commas, all sign
# events = ["open.matched", "open.settled", "lead.delivered", "lead.dead", "install.erased"]  # what to send
# allow_private_targets = false            # true: the URL may be http, and on your own network

# Builds that must be updated, and switches for emergencies: see docs/gate.md. They count for every open at
# once, also for repeated answers.
# [apps.acme.gate]
# min_supported_version = "2.0"            # older builds get a gate of kind "update", with update_screen
# update_url = "https://acme.com/get"      # where to get a newer build
# maintenance = false                      # true: every build gets a gate of kind "maintenance"
# screen = "maintenance"                   # the screen to show during maintenance
# message = "Back at 14:00 UTC"            # the text to show during maintenance
# matching = true                          # false: no click is matched by touch or IP address
# [apps.acme.gate.ios]
# min_supported_version = "2.1"            # for iOS, instead of the one above
# update_url = "https://apps.apple.com/app/id1234567890"
#                                          # for iOS, instead of the one above
# [apps.acme.gate.android]
# min_supported_version = "2.0"            # for Android, instead of the one above
# update_url = "https://play.google.com/store/apps/details?id=com.acme.app"
#                                          # for Android, instead of the one above

# Short links that the app itself may create, such as invitations, with POST /v1/links. See docs/links.md.
# [[apps.acme.link_templates]]
# name = "invite"                          # what the app names
# url = "https://acme.com/invite/{from}"   # the destination; {name} is a parameter
# parameters = { from = 64 }               # the parameters, and how many characters each may have
# domain = "acme.link"                     # one of the app's domains; omitted: its first
# prefix = ""                              # of the links' random keys, such as "i/"
# per_install_per_day = 10                 # how many different links an install may create in a day (UTC)

# What one process keeps in memory.
# [cache]
# answer_ttl_s = 3600                      # seconds for which an answer is repeated; one hour at Dub
# memory_mb = 160                          # memory for answers and links: about 140,000 opens
# link_stale_days = 7                      # days for which a link is kept, in case Dub is down
# unknown_link_ttl_s = 60                  # seconds for which Dub's "no such link" is kept

# How Dub is called.
# [dub]
# in_flight_max = 100                      # concurrent calls to one endpoint; more wait within their budgets
# timeout_ms = 10000                       # of a whole call; longer than a budget: late answers are used, too
# slow_ms = 1000                           # a call that takes longer counts as failed
# breaker_failures = 10                    # failed calls in 10 s that open the circuit breaker, if they are
#                                          # at least half of all calls
# breaker_open_s = 5                       # seconds without calls; then one call checks if Dub is back

# How opens, leads and sales are sent that Dub has not accepted yet.
# [outbox]
# in_flight_max = 16                       # leads sent at the same time, and as many sales
# expiry_days = 6                          # days until an entry becomes a dead letter: see firstopen outbox

# How long opens are stored, so that a later sign-up finds its click.
# [installs]
# install_ttl_days = 90                    # days

# How many requests are accepted. Unlimited unless set; repeats of an open are never counted.
# [limits]
# per_key = "2000/second"                  # with each key
# per_address = "50/second;1200/minute"    # from each IPv4 address or IPv6 /64; not with server keys

# How long a stop takes.
# [server]
# drain_ms = 1000                          # milliseconds after SIGTERM: not ready, but still answering
# stop_ms = 12000                          # then requests in flight finish, and after them calls to Dub, for
#                                          # at most so many milliseconds each (whole seconds)

# The console: a web page for operators at /console, for whoever has a server key.
# [console]
# enabled = true                           # false: there is no such page
""".replace(
    "FINGERPRINT",
    "14:6D:E9:83:C5:73:06:50:D8:EE:B9:95:2F:34:FC:64:16:A0:83:42:E6:1D:BE:A8:8A:04:96:B2:3F:CF:44:E5",
)


def next_steps(path: Path, env_path: Path, *, is_new: bool, has_secret: bool) -> str:
    """Return the text that ``firstopen init`` prints: what it wrote, and the commands to run next."""
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
