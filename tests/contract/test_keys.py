"""Who may ask: which key opens what."""

import pytest

from tests.contract.targets import (
    APP_KEY,
    CONVERSIONS,
    KEY_OF,
    KEYED,
    OTHER_APP_KEY,
    OTHER_SERVER_KEY,
    SERVER_KEY,
    Target,
    error_of,
)
from tests.sandbox.support import PROMO

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("path", KEYED)
async def test_no_key(shared: Target, path: str) -> None:
    """Without a key a request that is otherwise right is a 401."""
    assert error_of(await shared.ask_rightly(path, key=None)) == (401, "unauthorized")


@pytest.mark.parametrize("path", CONVERSIONS)
async def test_no_key_and_no_json(shared: Target, path: str) -> None:
    """A body that cannot be read, from somebody without a key, is a 401: the key comes first."""
    assert error_of(await shared.ask("POST", path, key=None, body=b"{")) == (401, "unauthorized")


@pytest.mark.parametrize("path", KEYED)
@pytest.mark.parametrize("key", ["dub_wrong", f"{SERVER_KEY}x", SERVER_KEY[:-1], SERVER_KEY.upper()])
async def test_a_wrong_key(shared: Target, path: str, key: str) -> None:
    """A key that nobody has, however near, is a 401 that does not repeat it."""
    response = await shared.ask_rightly(path, key)
    assert error_of(response) == (401, "unauthorized")
    assert key not in response.text


@pytest.mark.parametrize("path", KEYED)
async def test_a_key_of_the_other_kind(shared: Target, path: str) -> None:
    """A publishable key does not open what a server key does, nor the other way round."""
    other = SERVER_KEY if KEY_OF[path] == APP_KEY else APP_KEY
    response = await shared.ask_rightly(path, other)
    assert response.status_code == shared.expects("a key of the other kind")


@pytest.mark.parametrize("path", KEYED)
@pytest.mark.parametrize("given", [SERVER_KEY, "Basic ZHViOg==", "Bearer ", "Bearer"])
async def test_no_bearer_token(shared: Target, path: str, given: str) -> None:
    """An Authorization header of another form opens nothing."""
    response = await shared.ask_rightly(path, None, authorization=given)
    assert response.status_code == shared.expects("an Authorization that is no Bearer token")


@pytest.mark.parametrize("path", KEYED)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_schemes_case(shared: Target, path: str, scheme: str) -> None:
    """`Bearer` is written in any case, as HTTP has it."""
    response = await shared.ask_rightly(path, None, authorization=f"{scheme} {KEY_OF[path]}")
    assert response.status_code in {200, 404}


async def test_an_open_without_a_key(shared: Target) -> None:
    """Dub asks nobody for a key to /track/open; the service has to know the app."""
    response = await shared.ask("POST", "/track/open", key=None, body={"deepLink": PROMO})
    assert response.status_code == shared.expects("an open needs a key")


@pytest.mark.parametrize(
    ("key", "path"), [(OTHER_APP_KEY, "/track/lead/client"), (OTHER_SERVER_KEY, "/events")]
)
async def test_each_team_has_its_own_keys(shared: Target, key: str, path: str) -> None:
    """Another team's key is a good key, to that team's data."""
    click_id = await shared.click_id()
    await shared.lead(click_id)
    if path == "/events":
        assert (await shared.ask_rightly(path, key)).json() == []
    else:
        assert error_of(await shared.ask_rightly(path, key)) == (404, "not_found")
