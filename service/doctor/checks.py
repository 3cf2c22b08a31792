"""The result of a check."""

from typing import Literal

from msgspec import Struct

Status = Literal["ok", "warn", "fail"]


class Check(Struct, frozen=True):
    """What was checked, what was found, and how to fix it (empty if there is nothing to fix)."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def ok(name: str, detail: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, "ok", detail)


def warn(name: str, detail: str, fix: str) -> Check:
    """Return a check that found something that works, but not as well as it could."""
    return Check(name, "warn", detail, fix)


def fail(name: str, detail: str, fix: str) -> Check:
    """Return a check that found something that does not work."""
    return Check(name, "fail", detail, fix)
