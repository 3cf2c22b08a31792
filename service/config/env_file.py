"""The ``.env`` file beside ``firstopen.toml``: secrets as ``NAME=value`` lines.

This is our own parser because python-dotenv skips a line that it cannot parse, and warns in a log that is
not configured yet at that point. A skipped secret must stop the start instead.

What can go wrong: a line cannot be parsed (``BadEnvFile`` names the file and the line, and shows no value);
every user of the machine can read the file (logged as a warning at the start, see
``is_readable_by_others``).
"""

import os
import re
import secrets
import stat
from pathlib import Path

ENV_FILE = ".env"

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)\s*=([^\0]*)", re.ASCII)
_COMMENT = re.compile(r"\s#.*")
_OWNER_ONLY = 0o600
_NEW = """\
# Secrets for firstopen, which reads this file beside firstopen.toml. Variables of the environment win.
# Keep this file out of version control, and keep a copy in a safe place: what firstopen has stored can be
# read and matched with this secret only. The same secret is used by every replica.
FIRSTOPEN_SECRET={secret}
# ACME_DUB_API_KEY=dub_...
# ACME_SERVER_KEYS=dub_...
"""


class BadEnvFile(Exception):
    """The ``.env`` file cannot be read; the message names the file and the line, and shows no value."""


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in a ``.env`` file; an empty dict if the file does not exist.

    A value may be in single or double quotes, and is used literally: nothing is expanded or unescaped. If a
    name is set twice, the last line wins. Raises ``BadEnvFile``.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):  # a directory: some virtual environments are named .env
        return {}
    except OSError as exc:
        raise BadEnvFile(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise BadEnvFile(f"cannot read {path}: not UTF-8") from exc
    variables = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = _LINE.fullmatch(stripped)
        value = None if found is None else _value(found[2])
        if found is None or value is None:
            raise BadEnvFile(f"{path}:{number}: expected NAME=value, NAME='value' or a # comment")
        variables[found[1]] = value
    return variables


def write_env_file(path: Path) -> bool:
    """Write a ``.env`` file with a new FIRSTOPEN_SECRET, readable by its owner only.

    Return False, without a change, if the file exists. Raises ``OSError``.
    """
    try:
        with open(path, "x", encoding="utf-8", opener=_open_for_owner) as file:
            file.write(_NEW.format(secret=secrets.token_hex(32)))
    except FileExistsError:
        return False
    return True


def is_readable_by_others(path: Path) -> bool:
    """Return True if any user of the machine may read this file. A missing file is not readable."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _value(text: str) -> str | None:
    """Return the value in the text after ``=``; None for an unclosed quote or text after the quote."""
    quote = text.lstrip()[:1]
    if quote in ("'", '"'):
        value, end, rest = text.lstrip()[1:].partition(quote)
        return value if end and not _COMMENT.sub("", rest).strip() else None
    return _COMMENT.sub("", text).strip()


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, _OWNER_ONLY)
