"""The trap that firstopen is for, shown with nothing but HTTP: one address, one User-Agent, two people."""

from tests.clients.stage import Stage


def test_dub_takes_two_phones_behind_one_backend_for_one(stage: Stage) -> None:
    """Sent to Dub directly from one address with one User-Agent, two people's opens are one click."""
    anna, ben = stage.open_at_dub("acme-backend/1.0"), stage.open_at_dub("acme-backend/1.0")
    assert anna == ben


def test_firstopen_tells_two_phones_apart(stage: Stage) -> None:
    """Through firstopen the same two opens are two clicks, and one phone that retries keeps its own."""
    anna, ben = stage.open("trap-anna", "acme-backend/1.0"), stage.open("trap-ben", "acme-backend/1.0")
    assert anna != ben
    assert stage.open("trap-anna", "acme-backend/1.0") == anna
