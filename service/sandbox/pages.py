"""The pages that stand in for Dub's, and for the destinations of the demo's links.

Their paths are the sandbox's own on every domain of links; no link can have them as its key.
What can go wrong: text of a link or a query breaking out of its attribute, so everything is escaped.
"""

from html import escape
from string import Template
from urllib.parse import parse_qs, quote, urlsplit

from service.sandbox.urls import is_play_store
from service.sandbox.web import Reply, html_reply

DEEP_LINK_PATH = "/sandbox/deeplink/"  # for app.dub.co/deeplink/…; the link's key and its query follow
DESTINATION_PATH = "/sandbox/destination"
NOT_FOUND_PATH = "/sandbox/not-found"

_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title><body><h1>$title</h1>
$body</body></html>
""")
_LOCKED = """<form method="get"><label>Password <input name="pw" type="password"></label>
<button>Open</button></form>
"""
# A clipboard that the browser refuses must keep nobody here. An intent that nothing takes leaves the page
# where it is, so it goes on to the short link by itself.
_GET_THE_APP = Template("""<p>The button copies the link, so that the app can open at the right place.</p>
<input id="short-link" readonly value="$link">
<button id="get-app" data-next="$next" data-intent="$intent">Get the app</button>
<script>
const field = document.getElementById("short-link"), button = document.getElementById("get-app");
button.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    field.select();
    document.execCommand("copy");
  }
  const { next, intent } = button.dataset;
  if (intent) setTimeout(() => location.assign(next), 1500);
  location.assign(intent || next);
});
</script>
""")
_DESTINATION = Template("""<p>This link is a sandbox's, so you stay here. Dub would redirect to:</p>
<p><code id="destination">$url</code></p>
$more""")
_REFERRER = Template("""<p>An app that is installed from there reads this install referrer:</p>
<p><code id="install-referrer">$referrer</code></p>
""")


def message_page(status: int, title: str) -> Reply:
    """Return a page that says one thing."""
    return _page(status, title, "")


def password_page() -> Reply:
    """Return the form that asks for a link's password."""
    return _page(200, "Password required", _LOCKED)


def deep_link_page(link: str, onward: str, intent: str) -> Reply:
    """Return Dub's page between a short link and the store.

    `link` is what its button copies, `onward` where it goes then; `intent` is Android's way there, or "".
    """
    fields = {"link": escape(link), "next": escape(onward), "intent": escape(intent)}
    return _page(200, "Get the app", _GET_THE_APP.substitute(fields))


def destination_page(url: str) -> Reply:
    """Return the page that stands in for a destination."""
    referrer = parse_qs(urlsplit(url).query).get("referrer", [""])[0] if is_play_store(url) else ""
    more = _REFERRER.substitute(referrer=escape(referrer)) if referrer else ""
    return _page(200, "Dub redirects", _DESTINATION.substitute(url=escape(url), more=more))


def destination_path(url: str) -> str:
    """Return where the page for a destination is."""
    return f"{DESTINATION_PATH}?url={quote(url, safe=':/?=@')}"


def _page(status: int, title: str, body: str) -> Reply:
    return html_reply(status, _PAGE.substitute(title=escape(title), body=body))
