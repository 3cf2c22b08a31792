"""docs/firstopen.http has every operation of the API, and each request works beside the demo."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from service.testing import running
from tests.docs import openapi
from tests.docs.pages import ROOT

TEXT = (ROOT / "docs" / "firstopen.http").read_text()
VARIABLE = re.compile(r"\{\{([^}]+)\}\}")


class HttpRequest(NamedTuple):
    """A request of the collection."""

    operation: str
    name: str | None  # by which later requests refer to its answer
    method: str
    url: str
    headers: dict[str, str]
    body: str


def requests_in(text: str) -> list[HttpRequest]:
    """Read the requests of an HTTP file."""
    found = []
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        operation, _, rest = part.partition("\n")
        named = re.match(r"# @name (\w+)\n", rest)
        head, _, body = re.sub(r"^#.*\n", "", rest).partition("\n\n")
        first, *lines = head.strip().splitlines()
        method, url = first.split(" ", 1)
        headers = dict(line.split(": ", 1) for line in lines)
        name = named[1] if named else None
        found.append(HttpRequest(operation.strip(), name, method, url, headers, body.strip()))
    return found


def filled(text: str, variables: Mapping[str, str], answers: Mapping[str, Any]) -> str:
    def value(found: re.Match[str]) -> str:
        name, _, path = found[1].partition(".response.body.")
        return str(answers[name][path]) if path else variables[name]

    return VARIABLE.sub(value, text)


def test_every_operation_is_there() -> None:
    paths = json.loads(openapi.FILE.read_text())["paths"]
    operations = {
        operation["operationId"]
        for methods in paths.values()
        for method, operation in methods.items()
        if method in {"get", "post"}
    }
    assert {request.operation for request in requests_in(TEXT)} == operations


def test_every_request_works(tmp_path: Path) -> None:
    variables = dict(re.findall(r"^@(\w+) = (.+)$", TEXT, re.MULTILINE))
    answers: dict[str, Any] = {}
    with running(tmp_path) as demo, httpx.Client(timeout=20) as http:
        port = demo.sandbox_url.rpartition(":")[2]
        variables |= {"service": demo.url, "sandbox": demo.sandbox_url}
        for request in requests_in(TEXT):
            url, body = (filled(text, variables, answers) for text in (request.url, request.body))
            headers = {name: filled(text, variables, answers) for name, text in request.headers.items()}
            content = body.replace(":8001/", f":{port}/")
            if request.operation == "followOpens":
                with http.stream("GET", url, headers=headers) as events:
                    assert events.status_code == 200
                continue
            reply = http.request(request.method, url, headers=headers, content=content or None)
            assert reply.status_code in (200, 202), (request.operation, reply.status_code, reply.text)
            if request.name is not None:
                answers[request.name] = reply.json()
