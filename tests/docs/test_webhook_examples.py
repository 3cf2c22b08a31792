"""The cookbook of webhooks: its events have the fields that are sent, and its code verifies them."""

import json
import time
from typing import Any

import msgspec
import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from service.attribution.webhook_events import ErasedData, LeadData, OpenData
from service.domain.webhooks import EVENT_TYPES, parse_endpoint, signatures
from tests.docs.pages import ROOT, blocks_of
from tests.receiver import OLD_SECRET, SECRET

PAGE = ROOT / "docs" / "webhooks.md"
BLOCKS = blocks_of(PAGE)
EXAMPLES = [json.loads(block.text) for block in BLOCKS if block.language == "json"]
DATA: dict[str, type[msgspec.Struct]] = {
    "open.matched": OpenData,
    "lead.delivered": LeadData,
    "install.erased": ErasedData,
}
ABSENT = {"open.matched": {"creditedTo"}, "lead.delivered": {"reason"}, "install.erased": set[str]()}


def test_every_event_is_described() -> None:
    """In the table, and three of them by an example."""
    text = PAGE.read_text()
    assert [event for event in EVENT_TYPES if f"\n| `{event}` |" not in text] == []
    assert [each["type"] for each in EXAMPLES] == list(DATA)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example["type"]))
def test_an_example_has_the_fields_that_are_sent(example: dict[str, Any]) -> None:
    """All of them, and no other."""
    of, data = DATA[example["type"]], example["data"]
    msgspec.convert(data, of)
    names = {field.encode_name for field in msgspec.structs.fields(of)}
    assert data.keys() == names - ABSENT[example["type"]]


def test_the_python_example_verifies() -> None:
    """A request that is signed with the secret, among others; and refuses one that is not."""
    (block,) = [each for each in BLOCKS if each.language == "python"]
    namespace: dict[str, Any] = {}
    exec(block.text, namespace)
    body, now = b'{"type": "open.matched"}', int(time.time())
    keys = parse_endpoint("https://acme.com", f"{OLD_SECRET} {SECRET}", allow_private=False).keys
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signatures(keys, "msg_1", now, body),
    }
    assert namespace["event_of"](body, headers, SECRET) == {"type": "open.matched"}
    with pytest.raises(WebhookVerificationError):
        namespace["event_of"](body + b" ", headers, SECRET)
