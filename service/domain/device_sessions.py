"""Test sessions: an operator starts one, and a phone reports its name as ``testDevice``.

A publishable key is public, so nobody may leave the metrics, or get a click again, by inventing a name: only
the name of a session that an operator has started counts, and it cannot be guessed.
"""

import re
import secrets

from msgspec import Struct

SESSION_S = 12 * 3600.0  # a working day
SESSIONS_MAX = 20  # active ones of an app

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # without those that are mistaken for others: i, l, o, 0, 1
_GROUP = 4
_CHARS = 2 * _GROUP  # 40 bits: at 1,000 guesses a second, 1 in 10,000 that a day finds one of 20 sessions
_SEPARATORS = re.compile(r"[\s_-]+")


class DeviceSession(Struct, frozen=True):
    """A test session of an app. Times are Unix seconds."""

    app: str
    name: str
    started_at: float
    expires_at: float


def new_session(app: str, now: float) -> DeviceSession:
    """Return a session with a new name, such as ``k7qf-m2xd``; ``now`` is in Unix seconds."""
    chars = "".join(secrets.choice(_LETTERS) for _ in range(_CHARS))
    return DeviceSession(app, _grouped(chars), now, now + SESSION_S)


def session_name(text: str) -> str | None:
    """Return a typed name in canonical form, ``K7QF m2xd`` as ``k7qf-m2xd``; None if it cannot be one."""
    chars = _SEPARATORS.sub("", text.lower())
    return _grouped(chars) if len(chars) == _CHARS and set(chars) <= set(_LETTERS) else None


def _grouped(chars: str) -> str:
    return f"{chars[:_GROUP]}-{chars[_GROUP:]}"
