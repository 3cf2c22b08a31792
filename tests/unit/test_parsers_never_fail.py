"""Whatever bytes or text a parser is given, it returns a value or raises the one error that it documents.

The other parsers of what strangers send have such a test beside their tables: deep links (test_evidence),
referrers and clipboards (test_wrapped_links), User-Agents (test_traits), install ids and single addresses
(test_identity), dates of events (test_event_time). Answers of Dub's that are no HTTP are in test_wire_to_dub.
"""

import ipaddress
import json
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.api.dub_compat.bodies import TrackLeadRequest, TrackSaleRequest
from service.api.dub_compat.event_filters import events_query
from service.api.http import lenient_body, strict_body
from service.api.wire import OpenRequest
from service.domain.clicks import UnreadEvent
from service.domain.device_identity import TrustedProxies
from service.domain.errors import ForeignDomain, InvalidDubResponse, InvalidField, MalformedBody
from service.domain.routing import parse_version, shape_of_version
from service.dub.click_events import ClickEvent, read_events, split_page
from service.dub.client import RETRY_AFTER_MAX_S, retry_after_s
from service.dub.wire import check_lead, check_sale, decode_error, decode_opened
from service.sandbox.errors import DubError
from service.sandbox.metadata_query import parse_query

NOW = 1_785_585_600.0
DOMAINS = ("acme.link", "go.acme.com")

texts = st.text(st.characters(), max_size=60)  # half surrogates are among them
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
# JSON of any values, JSON with a byte changed or cut off, and no JSON at all.
bodies = (
    st.dictionaries(
        st.sampled_from(
            [
                *("deepLink", "installReferrer", "clipboard", "installId", "budgetMs", "installedAt"),
                *(
                    "metadata",
                    "clickId",
                    "eventName",
                    "customerExternalId",
                    "amount",
                    "click",
                    "link",
                    "error",
                ),
            ]
        ),
        values,
    )
    .map(lambda fields: json.dumps(fields).encode())
    .flatmap(
        lambda body: st.sampled_from([body, body[:-1], body[: len(body) // 2], body + b"]", b"[" + body])
    )
    | st.lists(values, max_size=3).map(lambda items: json.dumps(items).encode())
    | st.binary(max_size=80)
    | st.sampled_from(
        [b"[" * 5000, b'{"a":' * 5000, b'["' + b'\\"' * 5000, b"9" * 5000, b'{"budgetMs":1e999}']
    )
)
fuzzed = settings(deadline=None, max_examples=100)


@fuzzed
@given(bodies)
def test_the_body_of_an_open_is_an_object_or_malformed(body: bytes) -> None:
    """Every JSON object is read; all else is a ``MalformedBody``."""
    try:
        request = lenient_body(OpenRequest).decode(body)
    except MalformedBody:
        try:
            raw = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        assert not isinstance(raw, dict)
    else:
        assert isinstance(request, OpenRequest)


@fuzzed
@given(st.sampled_from([TrackLeadRequest, TrackSaleRequest]), bodies)
def test_the_body_of_a_conversion_is_read_or_refused(model: type[msgspec.Struct], body: bytes) -> None:
    """A lead or sale, metadata included, fits its model, or one of two documented errors says why not."""
    try:
        assert isinstance(strict_body(model).decode(body), model)
    except InvalidField as refused:
        assert refused.field  # noqa: PT017  both outcomes are fine; that the field is named is the claim
    except MalformedBody:
        pass


@fuzzed
@given(bodies)
def test_an_answer_of_dubs_is_read_or_refused(body: bytes) -> None:
    """Whatever Dub answers is decoded, or raises what the client turns into ``InvalidDubResponse``."""
    for decode in (decode_opened, decode_error, check_lead, check_sale):
        try:
            decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue


@fuzzed
@given(bodies | st.lists(bodies, max_size=4).map(lambda events: b"[" + b",".join(events) + b"]"))
def test_a_page_of_events_is_read_event_by_event(page: bytes) -> None:
    """A page is a list or ``InvalidDubResponse``; each of its events is read, or named as unread."""
    try:
        events = split_page(page)
    except InvalidDubResponse:
        return
    read = list(read_events(events))
    assert len(read) == len(events)
    assert all(isinstance(event, ClickEvent | UnreadEvent) for event in read)


@fuzzed
@given(
    texts
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes().map(lambda at: f"{at:%a, %d %b %Y %H:%M:%S} GMT")
    | st.text("0123456789\u0661\u00b2-+. ", max_size=30)
)
@example("\u00b2")
@example("9" * 5000)
@example("Thu, 01 Jan 0001 00:00:00 +9999")
def test_retry_after_is_a_bounded_time(text: str) -> None:
    """Any header is a number of seconds from 0 to the longest wait."""
    assert 0 <= retry_after_s(text, NOW) <= RETRY_AFTER_MAX_S


addresses = st.ip_addresses().map(str)
hops = st.lists(
    addresses
    | texts
    | addresses.map("[{}]:80".format)
    | st.sampled_from(["", "127.0.0.1", "unknown", "::ffff:"]),
    max_size=8,
).map(", ".join)


@fuzzed
@given(addresses | st.none(), hops)
def test_forwarded_for_from_a_stranger_is_not_believed(peer: str | None, forwarded_for: str) -> None:
    """Nothing that an untrusted peer sends changes its address; from a trusted one it is an address."""
    strict = TrustedProxies(["192.0.2.1"])
    if peer != "192.0.2.1":
        assert strict.client_ip(peer, forwarded_for) == strict.client_ip(peer, "")
    believed = TrustedProxies(["127.0.0.0/8"]).client_ip("127.0.0.1", forwarded_for)
    assert believed is not None
    ipaddress.ip_address(believed)


@fuzzed
@given(texts | st.from_regex(r"v?\d{1,5}(\.\d{1,30}){0,6}([-+ (].{0,5})?"))
@example("1." * 32)
@example("9" * 64)
def test_a_version_is_numbers_or_none(text: str) -> None:
    """Any text has a canonical version, which reads as itself, or none; its shape shows no digits."""
    version = parse_version(text)
    assert not {*shape_of_version(text)} & {*"012345678"}
    if version:
        assert version[-1] != 0
        assert parse_version(".".join(map(str, version))) == version


@fuzzed
@given(st.binary(max_size=80) | st.from_regex(rb"(domains?|key|linkId|event)=[-a-z.,%&=]{0,40}"))
def test_an_events_query_stays_with_the_apps_domains(query: bytes) -> None:
    """Whatever is asked, the query that is sent names domains of the app's own only."""
    try:
        sent = events_query(query, DOMAINS)
    except (InvalidField, ForeignDomain):
        return
    (domains,) = [pair.partition("=")[2] for pair in sent.split("&") if pair.startswith("domain=")]
    assert {*domains.split("%2C")} <= {*DOMAINS}


@fuzzed
@given(texts | st.from_regex(r"metadata(\.\w+|\['\w+'\])\s*(:|=|>=)\s*('\w*'|\w+)( AND )?"))
def test_a_search_by_metadata_is_understood_or_refused(query: str) -> None:
    """The sandbox knows a subset: what it does not know is Dub's 422, never a guess."""
    try:
        terms: tuple[Any, ...] = parse_query(query)
    except DubError as refused:
        assert refused.status == 422  # noqa: PT017  both outcomes are fine; the status is the claim
    else:
        assert terms
