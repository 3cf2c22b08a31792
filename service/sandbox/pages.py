"""HTML pages in place of Dub's, and of the destinations of the demo's links.

Their paths are reserved on every domain of links: no link can have them as its key.
What can go wrong: text from a link or a query becomes markup (all text is escaped).
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
# The page must also continue if the browser refuses access to the clipboard. If no app handles the intent,
# the browser stays on the page, so a timer opens the short link.
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
_DESTINATION = Template("""<p>The sandbox does not redirect this link. Dub would redirect to:</p>
<p><code id="destination">$url</code></p>
$more""")
_REFERRER = Template("""<p>An app that is installed from there reads this install referrer:</p>
<p><code id="install-referrer">$referrer</code></p>
""")


def message_page(status: int, title: str) -> Reply:
    """Return a page with only a title."""
    return _page(status, title, "")


def password_page() -> Reply:
    """Return the form that asks for a link's password."""
    return _page(200, "Password required", _LOCKED)


def deep_link_page(link: str, onward: str, intent: str) -> Reply:
    """Return Dub's page between a short link and the store.

    Its button copies `link`, then opens `intent` (on Android, else "") or `onward`.
    """
    fields = {"link": escape(link), "next": escape(onward), "intent": escape(intent)}
    return _page(200, "Get the app", _GET_THE_APP.substitute(fields))


def destination_page(url: str) -> Reply:
    """Return the page that is shown instead of a destination."""
    referrer = parse_qs(urlsplit(url).query).get("referrer", [""])[0] if is_play_store(url) else ""
    more = _REFERRER.substitute(referrer=escape(referrer)) if referrer else ""
    return _page(200, "Dub redirects", _DESTINATION.substitute(url=escape(url), more=more))


def destination_path(url: str) -> str:
    """Return the path of the page that is shown instead of a destination."""
    return f"{DESTINATION_PATH}?url={quote(url, safe=':/?=@')}"


def _page(status: int, title: str, body: str) -> Reply:
    return html_reply(status, _PAGE.substitute(title=escape(title), body=body))
