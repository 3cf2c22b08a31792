"""Every command in the documentation is run here, or is of a kind that cannot run, with its reason."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks_of, name_of, pages
from tests.docs.session import SHELL, Shell, commands_of, compare, examples_of, program_of
from tests.process import free_ports, started

# Programs that cannot run here, and why; what they do is held by other tests where that is possible.
CANNOT_RUN = {
    "adb": "needs an Android device",
    "docker": "needs a Docker daemon; make image-check and tests/k8s/test_compose.py check its files",
    "helm": "needs a cluster; make k8s renders the chart with a helm of its own",
    "kubectl": "needs a cluster; make k8s validates what is applied",
    "python3": "runs what is in docs/examples, which test_examples.py runs",
    "sqlite3": "is not everywhere; the tests of docs/data.md run its SQL through Python's",
    "xcrun": "comes with Xcode, on macOS only",
}
# Commands that may stand beside those: they only prepare something for them.
PREPARES = {"", "firstopen", "printf"}
MAKE = "make"
PYTHON = ".venv/bin/python"
DEMO, FOLDER = "demo", "folder"
WORLDS = {DEMO: "beside the demo of make run", FOLDER: "in an empty folder"}
SHELLS = [block for page in pages() for block in blocks_of(page) if block.language == SHELL]


def _id(block: Block) -> str:
    return f"{block.page}:{block.line}"


def _pages_of(world: str) -> list[Path]:
    return [page for page in pages() if examples_of(blocks_of(page), world)]


def test_there_are_examples_of_each_world() -> None:
    for world in WORLDS:
        assert _pages_of(world), world


def test_commands_are_in_blocks_that_this_test_finds() -> None:
    """A block in another shell's language, or with prompts, would be run by nobody."""
    for page in pages():
        for block in blocks_of(page):
            assert block.language not in {"bash", "console", "shell", "zsh"}, _id(block)
            assert block.language, f"{_id(block)}: a block without a language"
            assert not block.mark.startswith("run:") or block.language == SHELL, _id(block)


@pytest.mark.parametrize("page", _pages_of(DEMO), ids=name_of)
def test_examples_run_beside_the_demo(page: Path, tmp_path: Path) -> None:
    port = free_ports(2)
    with started("serve", env={"FIRSTOPEN_PORT": str(port)}, cwd=tmp_path) as demo:
        demo.ready(port)
        examples = examples_of(blocks_of(page), DEMO)
        Shell(tmp_path, port).run([each for each in examples if each.block.text != "make run"])
        demo.stop()
        greeted = [each.answer for each in examples if each.block.text == "make run" and each.answer]
        for answer in greeted:
            _compare_greeting(demo.rest(), answer, port)


def _compare_greeting(lines: list[str], answer: Block, port: int) -> None:
    """``make run`` is ``firstopen serve``: what the page shows is how it greets."""
    recipe = subprocess.run(
        [MAKE, "-n", "--no-print-directory", "run"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert recipe.stdout.splitlines()[-1].endswith("firstopen serve")
    greeting = "\n".join(lines[: lines.index("")])
    shown = greeting.replace(f":{port + 1}", ":8001").replace(f":{port}", ":8000")
    compare(shown, answer, _id(answer))


@pytest.mark.parametrize("page", _pages_of(FOLDER), ids=name_of)
def test_examples_run_in_an_empty_folder(page: Path, tmp_path: Path) -> None:
    Shell(tmp_path, free_ports(2)).run(examples_of(blocks_of(page), FOLDER))


@pytest.mark.parametrize("block", [each for each in SHELLS if not each.mark.startswith("run:")], ids=_id)
def test_what_is_not_run_cannot_run(block: Block) -> None:
    """Each command is of a kind in ``CANNOT_RUN``, prepares for one, or is checked without running it."""
    programs = {program_of(command) for command in commands_of(block.text)}
    assert programs & {*CANNOT_RUN, MAKE, PYTHON}, f"{_id(block)} is marked by nothing, and could run"
    assert programs <= {*CANNOT_RUN, *PREPARES, MAKE, PYTHON}, f"{_id(block)} has commands that could run"
    for command in commands_of(block.text):
        words = shlex.split(command.partition("<<")[0], comments=True)
        if words[:1] == [MAKE]:
            _check_make(words[1:], block)
        elif words[:1] == [PYTHON]:
            _check_python(words[1:], block)


@pytest.mark.parametrize("block", [each for each in SHELLS if each.mark.startswith("run:")], ids=_id)
def test_what_is_run_has_a_world(block: Block) -> None:
    assert block.mark.removeprefix("run: ") in WORLDS


def _check_make(words: list[str], block: Block) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [word for word in words if "=" not in word]
    assert set(wanted) <= set(targets), f"{_id(block)}: make has no target {wanted}"


def _check_python(words: list[str], block: Block) -> None:
    """The module and the files that are named exist."""
    assert words[0] == "-m", _id(block)
    assert importlib.util.find_spec(words[1]) is not None, _id(block)
    for word in words[2:]:
        if "/" in word:
            assert (ROOT / word.partition("::")[0]).exists(), f"{_id(block)}: there is no {word}"


def test_no_kind_is_unused() -> None:
    """The list of what cannot run is as short as it can be."""
    used = {program_of(command) for block in SHELLS for command in commands_of(block.text)}
    assert {*CANNOT_RUN, *PREPARES} - used == set()


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("# only a comment\ntrue\n\nfalse  # why\n", ["true", "false  # why"]),
        ("echo a \\\n  b\necho c\n", ["echo a \\\n  b", "echo c"]),
        ("echo '{\n}'\n", ["echo '{\n}'"]),
        ("cat <<EOF\nit's\nEOF\ntrue\n", ["cat <<EOF\nit's\nEOF", "true"]),
    ],
)
def test_commands_are_told_apart(text: str, commands: list[str]) -> None:
    assert commands_of(text) == commands


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": {"id": "x"}}', '{"a": {}}'),
        ('{"id": "x"}', '{"id": null}'),
        ('[{"a": 1}]', '[{"a": 1}, {"a": 1}]'),
    ],
)
def test_a_different_answer_is_noticed(shown: str, printed: str) -> None:
    with pytest.raises(AssertionError):
        compare(printed, Block("page", 1, "json", "answer", shown), "here")


@pytest.mark.parametrize(
    ("language", "shown", "printed"),
    [
        ("json", '{"openId": "a", "…": "…"}', '{"openId": "b", "more": 1}'),
        ("json", '{"list": [{"a": 1}, "…"]}', '{"list": [{"a": 1}, {"a": 2}]}'),
        ("text", "one … three\nfour", "one two three four\n"),
    ],
)
def test_an_answer_like_the_one_shown_passes(language: str, shown: str, printed: str) -> None:
    compare(printed, Block("page", 1, language, "answer", shown), "here")


def test_another_text_is_noticed() -> None:
    with pytest.raises(AssertionError):
        compare("one two", Block("page", 1, "text", "answer", "one … three"), "here")
