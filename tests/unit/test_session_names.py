"""Names of test sessions: read as a person types them, and not to be guessed."""

import pytest

from service.domain.device_sessions import new_session, session_name


@pytest.mark.parametrize("typed", ["k7qf-m2xd", "K7QF-M2XD", "k7qfm2xd", " k7qf m2xd", "k7qf_m2xd"])
def test_a_name_is_read_as_it_is_typed(typed: str) -> None:
    assert session_name(typed) == "k7qf-m2xd"


@pytest.mark.parametrize(
    "text", ["", "-", "k7qf", "k7qf-m2x", "k7qf-m2xdd", "k7qf-m2x0", "k7qf-m2xi", "ⅷ7qf-m2xd"]
)
def test_other_text_is_no_name(text: str) -> None:
    assert session_name(text) is None


def test_names_differ_and_read_back() -> None:
    names = {new_session("acme", 0).name for _ in range(1000)}
    assert len(names) == 1000
    assert {session_name(name.upper()) for name in names} == names
