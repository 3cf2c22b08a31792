"""Each alert leads to a runbook, and what its commands name is real: commands, options, log lines."""

import re
import shlex
from pathlib import Path

import pytest
import rich_click as click
import structlog
import yaml

from service.cli.main import main
from service.telemetry import Event
from tests.docs.pages import ROOT, blocks_of, name_of
from tests.docs.session import SHELL
from tests.support import LogLines

FOLDER = ROOT / "docs" / "runbooks"
ALERTS = ROOT / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"
RUNBOOKS = sorted(page for page in FOLDER.glob("*.md") if page.stem != "README")


def commands_of(page: Path) -> list[str]:
    return [
        line
        for block in blocks_of(page)
        if block.language == SHELL
        for line in block.text.splitlines()
        if line and not line.startswith("#")
    ]


def test_each_alert_leads_to_a_page_that_ends_in_commands() -> None:
    """By ``runbook_url``, an https URL whose last part is the alert's own page."""
    groups = yaml.safe_load(ALERTS.read_text())["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} == {page.stem for page in RUNBOOKS}
    for rule in rules:
        url = rule["annotations"]["runbook_url"]
        assert re.fullmatch(rf"https://\S+/runbooks/{rule['alert']}\.md", url), url
        text = (FOLDER / f"{rule['alert']}.md").read_text()
        assert re.search(r"\n## Commands\n\n```sh\n[^`]+\n```\n\Z", text), rule["alert"]


@pytest.mark.parametrize("page", RUNBOOKS, ids=name_of)
def test_commands_of_firstopen_are_accepted(page: Path) -> None:
    """Each is a command with its arguments and options; ``kubectl exec`` runs it in a pod."""
    for line in commands_of(page):
        _, found_at, text = line.partition(" -- firstopen ")
        if not found_at:
            assert not line.endswith(" -- firstopen"), line
            continue
        command: click.Command = main
        rest = shlex.split(text, comments=True)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            found = command.get_command(click.Context(command), rest.pop(0))
            assert found is not None, line
            command = found
        command.make_context(command.name, rest)  # raises ``UsageError`` for what is not accepted


@pytest.mark.parametrize("page", RUNBOOKS, ids=name_of)
def test_searches_of_the_log_can_find_something(page: Path, logs: LogLines) -> None:
    """A pattern of ``grep`` matches a log line as it is written: an event's name, a level, a field."""
    log = structlog.get_logger()
    for event in Event:
        log.error(event, match="ip")
    lines = logs.text.splitlines()
    assert len(lines) == len(Event)
    for line in commands_of(page):
        for pattern in re.findall(r"\| grep (?:-[cE] )?('[^']+'|\S+)", line):
            assert any(re.search(pattern.strip("'"), each) for each in lines), line
