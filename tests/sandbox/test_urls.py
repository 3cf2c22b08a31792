"""URLs laid over each other, and handed through stores."""

from statistics import median
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from service.sandbox.urls import header_safe, merge_query, short_link, split_deep_link, with_install_referrer
from tests.sandbox.support import DOMAIN, PLAY_STORE, FakeClock, build

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
queries = st.lists(st.tuples(names, st.text(st.characters(codec="utf-8"), max_size=8)), max_size=5)


@given(queries)
def test_laying_over_twice_changes_nothing(query: list[tuple[str, str]]) -> None:
    """A query laid over a URL that has it already leaves the URL as it is."""
    once = merge_query("https://acme.com/p?ref=mail&size=42#top", query)
    assert merge_query(once, query) == once


@given(queries)
def test_laid_over_values_are_there(query: list[tuple[str, str]]) -> None:
    """Every clicked parameter ends up in the URL with its last value."""
    laid = urlsplit(merge_query("https://acme.com/p?ref=mail", query)).query
    assert dict(parse_qsl(laid, keep_blank_values=True)) == {"ref": "mail"} | dict(query)


@given(queries, st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=20))
def test_install_referrer_round_trip(query: list[tuple[str, str]], existing: str) -> None:
    """An app decodes the short link that was clicked, behind the referrer that was there already.

    dub-api.md, "What the web side of a link does".
    """
    link = f"{short_link(DOMAIN, 'fb-promo')}?{urlencode(query)}"
    url = with_install_referrer(merge_query(PLAY_STORE, [("referrer", existing)]), link)
    (referrer,) = parse_qs(urlsplit(url).query, keep_blank_values=True)["referrer"]
    before, _, deep_link = referrer.rpartition("deepLink=")
    assert unquote(deep_link) == link
    assert before == (f"{existing}&" if existing else "")


@given(st.text())
def test_any_text_is_a_deep_link_or_not(text: str) -> None:
    """Splitting never raises; what it finds has a key that is not empty."""
    named = split_deep_link(text)
    assert named is None or named[1]


@given(st.text(st.characters(codec="utf-8")))
def test_header_safe_is_printable_ascii(text: str) -> None:
    """Nothing that is not printable ASCII gets into a header, and doing it twice changes nothing."""
    safe = header_safe(text)
    assert all("!" <= character <= "~" for character in safe)
    assert header_safe(safe) == safe


async def test_an_open_is_answered_in_well_under_a_millisecond() -> None:
    """A new click costs less than a millisecond of this process, so that the sandbox slows no benchmark."""
    sandbox = build(FakeClock())
    body = b'{"deepLink": "https://acme.link/fb-promo"}'

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(_: Any) -> None:
        pass

    async def open_s(phone: int) -> float:
        scope: Any = {
            "type": "http",
            "method": "POST",
            "path": "/track/open",
            "query_string": b"",
            "client": None,
            "headers": [(b"host", b"localhost"), (b"user-agent", b"phone %d" % phone)],
            "root_path": "",
            "scheme": "http",
        }
        started = perf_counter()
        await sandbox.app(scope, receive, send)  # type: ignore[arg-type]  # a plain ASGI call
        return perf_counter() - started

    assert median([await open_s(phone) for phone in range(200)]) < 0.001
    assert (await sandbox.link())["clicks"] == 200
