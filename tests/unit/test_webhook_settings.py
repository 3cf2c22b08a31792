"""A webhook's URL and secrets are checked at the start."""

from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from service.config.settings import Settings, SettingsError, parse
from service.domain.webhooks import EVENT_TYPES, Endpoint, event_id, parse_endpoint, signatures
from tests.receiver import OLD_SECRET, SECRET
from tests.support import CONFIG, ENV

TABLE = """
[apps.acme.webhook]
url_env = "ACME_WEBHOOK_URL"
secret_env = "ACME_WEBHOOK_SECRET"
"""
URL = "https://api.acme.com/hooks?key=1"


def with_hook(url: str = URL, secret: str = SECRET, more: str = "") -> Settings:
    env = {**ENV, "ACME_WEBHOOK_URL": url, "ACME_WEBHOOK_SECRET": secret}
    return parse(CONFIG.replace("[apps.globex]", f"{TABLE}{more}\n[apps.globex]"), env)


def test_every_event_is_sent_unless_some_are_listed() -> None:
    """The endpoint is in the settings, without its secret in their text."""
    settings = with_hook()
    hook = settings.apps["acme"].webhook
    assert hook is not None
    assert hook.events == EVENT_TYPES
    assert settings.webhooks["acme"].url == URL
    assert settings.webhooks["acme"].host == "api.acme.com"
    assert SECRET not in repr(settings)
    assert repr(settings.webhooks["acme"]) == "Endpoint(api.acme.com)"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "apps.acme.webhook.url_env: the environment variable ACME_WEBHOOK_URL is not set"),
        ("api.acme.com", "ACME_WEBHOOK_URL .apps.acme.webhook.: expected an https URL"),
        ("http://api.acme.com/", "expected an https URL"),
        ("ftp://api.acme.com/", "expected an https URL"),
        ("https://user:pass@api.acme.com/", "without user info"),
        (f"https://api.acme.com/{'x' * 2000}", "expected an https URL"),
        ("https://127.0.0.1/", "expected a public address"),
        ("https://2130706433/", "expected a public address"),
        ("https://0x7f.1/", "expected a public address"),
        ("https://0/", "expected a public address"),
        ("https://[::1]/", "expected a public address"),
        ("https://[::ffff:10.0.0.1]/", "expected a public address"),
        ("https://169.254.169.254/latest", "allow_private_targets = true"),
    ],
)
def test_a_url_that_cannot_be_used_stops_the_start(url: str, problem: str) -> None:
    """The message names the variable, and shows nothing of its value."""
    with pytest.raises(SettingsError, match=problem) as refused:
        with_hook(url)
    assert "//" not in url or url.partition("//")[2] not in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/", "https://[fd00::1]/", "http://backend.acme.svc/"])
def test_private_targets_are_allowed_on_request(url: str) -> None:
    """And http with them."""
    assert with_hook(url, more="allow_private_targets = true").webhooks["acme"].url == url


@pytest.mark.parametrize(
    "secret",
    [
        "C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs=",  # no prefix
        "whsec_",
        "whsec_C2FVsBQIhrs=",  # 8 bytes
        f"whsec_{'A' * 88}",  # 66 bytes
        "whsec_C2FVsBQI-rscChlQIMV_b5sSYspob7oDC2FVsBQIhrs=",  # URL-safe base64 is none
        f"{SECRET} whatever",
    ],
)
def test_a_secret_that_cannot_be_used_stops_the_start(secret: str) -> None:
    """The message says how to make one, and shows nothing of the value."""
    with pytest.raises(SettingsError, match=r"ACME_WEBHOOK_SECRET.*expected whsec_") as refused:
        with_hook(secret=secret)
    assert "C2FV" not in str(refused.value)


@pytest.mark.parametrize(
    "text", [f"{SECRET} {OLD_SECRET}", f"{SECRET},{OLD_SECRET}", f" {SECRET} , {OLD_SECRET}\n"]
)
def test_several_secrets_sign_in_their_order(text: str) -> None:
    """Each signature is one that the package of Standard Webhooks makes with that secret."""
    keys = parse_endpoint(URL, text, allow_private=False).keys
    assert len(keys) == 2
    first, second = signatures(keys, "msg_1", 1_795_936_200, b'{"a": 1}').split(" ")
    at = datetime.fromtimestamp(1_795_936_200, UTC)
    for secret, signature in ((SECRET, first), (OLD_SECRET, second)):
        assert Webhook(secret).sign("msg_1", at, '{"a": 1}') == signature


def test_an_unpadded_secret_is_read() -> None:
    """As the package does."""
    assert parse_endpoint(URL, SECRET.rstrip("="), allow_private=False) == Endpoint(
        URL, parse_endpoint(URL, SECRET, allow_private=False).keys
    )


def test_ids_tell_events_apart() -> None:
    """The same event has the same id; another one, or the same words split elsewhere, has another."""
    ids = {
        event_id("open.matched", "device", "click"),
        event_id("open.settled", "device", "click"),
        event_id("open.matched", "devicec", "lick"),
        event_id("open.matched", "device", "click", ""),
    }
    assert len(ids) == 4
    assert event_id("open.matched", "device", "click") in ids


def test_a_variable_of_a_webhook_may_begin_with_firstopen() -> None:
    """It is not taken for a typo."""
    table = TABLE.replace("ACME_WEBHOOK", "FIRSTOPEN_ACME_WEBHOOK")
    env = {**ENV, "FIRSTOPEN_ACME_WEBHOOK_URL": URL, "FIRSTOPEN_ACME_WEBHOOK_SECRET": SECRET}
    assert parse(CONFIG.replace("[apps.globex]", f"{table}\n[apps.globex]"), env).webhooks["acme"].url == URL


def test_commands_need_no_secret_of_a_webhook() -> None:
    """``firstopen routes`` runs where the variables are not set."""
    text = CONFIG.replace("[apps.globex]", f"{TABLE}\n[apps.globex]")
    assert parse(text, ENV, keys_required=False).webhooks == {}
