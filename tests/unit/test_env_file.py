"""The lines of a ``.env``: what they set, and which of them stop the start."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config.env_file import BadEnvFile, is_readable_by_others, read_env_file, write_env_file

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("env") / ".env"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("export NAME=value", "value"),
        ("  NAME = value  ", "value"),
        ("NAME=", ""),
        ("NAME= # nothing", ""),
        ("NAME='two words'", "two words"),
        ('NAME="two words"  # why', "two words"),
        ("NAME='a # b'", "a # b"),
        ("NAME=''", ""),
        ("""NAME="it's" """, "it's"),
        ("NAME=two words", "two words"),
        ("NAME=it's", "it's"),
        ("NAME=a#b", "a#b"),
        ("NAME=#b", "#b"),
        ("NAME=a # b", "a"),
        ("NAME=a=b&c=d", "a=b&c=d"),
        ("NAME=$HOME/${HOME}", "$HOME/${HOME}"),
        (r'NAME="a\nb"', r"a\nb"),
        ("NAME=grün", "grün"),
        ("NAME=first\nNAME=last", "last"),
        ("\ufeffNAME=value\r\n# a comment\r\n\r\n", "value"),
    ],
)
def test_a_line_sets_a_variable(path: Path, line: str, value: str) -> None:
    """Quotes, ``export`` and comments are optional; nothing is expanded or unescaped."""
    path.write_text(line, encoding="utf-8", newline="")
    assert read_env_file(path) == {"NAME": value}


@pytest.mark.parametrize(
    "line",
    [
        "hidden",
        "=hidden",
        "NA ME=hidden",
        "NA-ME=hidden",
        "1NAME=hidden",
        "NAMÉ=hidden",
        "export hidden",
        "NAME: hidden",
        "NAME='hidden",
        "NAME=\"hidden'",
        "NAME='hidden' and more",
        "NAME='hidden'#b",
        'NAME="hid"den"',
        "NAME=hid\0den",
    ],
)
def test_a_line_that_cannot_be_read_is_named(path: Path, line: str) -> None:
    """The message has the file and the line's number, and nothing of the line."""
    path.write_text(f"# a comment\nGOOD=value\n\n{line}\nAFTER=value\n", encoding="utf-8")
    with pytest.raises(BadEnvFile) as refused:
        read_env_file(path)
    assert str(refused.value) == f"{path}:4: expected NAME=value, NAME='value' or a # comment"


@given(value=VALUES.filter(lambda text: "'" not in text))
def test_any_value_can_be_quoted(path: Path, value: str) -> None:
    """What stands between quotes is the value, character by character."""
    path.write_text(f"BEFORE=1\nNAME='{value}'\nAFTER=2\n", encoding="utf-8")
    assert read_env_file(path) == {"BEFORE": "1", "NAME": value, "AFTER": "2"}


@given(content=st.binary())
def test_any_file_is_read_or_refused(path: Path, content: bytes) -> None:
    """Bytes that are no ``.env`` end in ``BadEnvFile``, whose message has nothing of them."""
    path.write_bytes(content)
    variables, message = {}, ""
    try:
        variables = read_env_file(path)
    except BadEnvFile as exc:
        message = str(exc)
    place = re.escape(str(path))
    expected = "expected NAME=value, NAME='value' or a # comment"
    assert re.fullmatch(rf"|{place}:\d+: {expected}|cannot read {place}: not UTF-8", message)
    assert all(name.isidentifier() and "\0" not in value for name, value in variables.items())


def test_a_file_that_is_not_there_sets_nothing(tmp_path: Path) -> None:
    """Nor does a folder of that name: some virtual environments are called .env."""
    assert read_env_file(tmp_path / ".env") == {}
    (tmp_path / ".env").mkdir()
    assert read_env_file(tmp_path / ".env") == {}
    assert not is_readable_by_others(tmp_path / ".env")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A secret that cannot be read is not taken for one that nobody has set."""
    (tmp_path / ".env").symlink_to(".env")
    with pytest.raises(BadEnvFile, match=r"cannot read .*/\.env: "):
        read_env_file(tmp_path / ".env")


def test_a_written_file_is_for_its_owner(tmp_path: Path) -> None:
    """Each has a secret of its own, which no other user may read; an existing file is left as it is."""
    here, there = tmp_path / "here.env", tmp_path / "there.env"
    assert write_env_file(here)
    assert write_env_file(there)
    one, two = (read_env_file(each)["FIRSTOPEN_SECRET"] for each in (here, there))
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert one != two
    assert here.stat().st_mode & 0o777 == 0o600
    assert not is_readable_by_others(here)
    assert not write_env_file(here)
    assert read_env_file(here) == {"FIRSTOPEN_SECRET": one}
