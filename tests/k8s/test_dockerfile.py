"""The Dockerfile makes a small image that a restricted pod can run, from pinned and hashed parts."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.k8s import check, dockerfile, image_check, kustomize
from tests.k8s.dockerfile import Stage
from tests.k8s.documents import Object, containers_of, pod_of
from tests.k8s.image_check import Build

TEXT = (check.ROOT / "Dockerfile").read_text()
IGNORE = (check.ROOT / ".dockerignore").read_text()


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return dockerfile.read(check.ROOT / "Dockerfile")[1]


@pytest.fixture(scope="module")
def pod() -> Object:
    objects = kustomize.render(check.K8S / "overlays" / "production")
    return next(spec for thing in objects if (spec := pod_of(thing)))


def test_bases_are_slim_and_pinned(stages: list[Stage]) -> None:
    """Each stage begins at one slim image of a full version, by tag and by a digest that is an argument."""
    assert len(stages) == 2
    for stage in stages:
        assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", stage.base)
    assert re.search(r"^ARG PYTHON_TAG=", TEXT, re.MULTILINE)
    assert re.search(r"^ARG PYTHON_DIGEST=sha256:", TEXT, re.MULTILINE)


def test_what_is_installed_is_hashed_and_needs_no_compiler(stages: list[Stage]) -> None:
    """Every install is from a hashed lock, wheels only, or from what was built here; nothing comes by apt."""
    commands = [command for each in stages[0].all("RUN") for command in each.text.split(" && ")]
    installs = [command for command in commands if " install " in command]
    assert len(installs) == 3
    for command in installs:
        hashed = "--require-hashes --only-binary :all:" in " ".join(command.split())
        assert hashed or "--no-index --no-deps" in command
    assert not re.search(r"apt|gcc|build-essential|curl|wget", " ".join(each.text for each in _runs(stages)))


def _runs(stages: list[Stage]) -> list[dockerfile.Instruction]:
    return [each for stage in stages for each in stage.all("RUN")]


def test_the_final_stage_only_takes_over(stages: list[Stage]) -> None:
    """The final stage runs no installer, and copies nothing but the finished environment."""
    final = stages[-1]
    assert all("pip" not in each.text for each in final.all("RUN"))
    assert [each.text for each in final.all("COPY")] == ["--from=build /opt/firstopen /opt/firstopen/"]


def test_the_image_is_what_the_pod_expects(stages: list[Stage], pod: Object) -> None:
    """User, port, folders and commands of the image are those of the pod, as numbers where it counts."""
    final = stages[-1]
    context = pod["securityContext"]
    assert final.last("USER").text == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["runAsUser"] != 0
    env = {name: value for each in final.all("ENV") for name, value in each.pairs().items()}
    container = containers_of(pod)[0]
    in_pod = {each["name"]: each.get("value") for each in container["env"]}
    for name in ("FIRSTOPEN_CONFIG", "FIRSTOPEN_HOST", "FIRSTOPEN_PORT"):
        assert env[name] == in_pod[name]
    assert final.last("EXPOSE").text == str(container["ports"][0]["containerPort"])
    assert [*final.last("ENTRYPOINT").words(), *container["args"]] == ["firstopen", "serve"]
    assert final.last("CMD").words() == container["args"]
    assert env["PYTHONDONTWRITEBYTECODE"] == "1"


def test_it_says_what_it_is(stages: list[Stage]) -> None:
    """OCI labels carry the project's own version and license; a health check needs no curl."""
    project = tomllib.loads((check.ROOT / "pyproject.toml").read_text())["project"]
    final = stages[-1]
    arguments = {name: value for each in final.all("ARG") for name, value in each.pairs().items()}
    labels = {
        name: dockerfile.expand(value, arguments) for name, value in final.last("LABEL").pairs().items()
    }
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert "/health/ready" in final.last("HEALTHCHECK").text
    assert "curl" not in final.last("HEALTHCHECK").text


def test_manifests_run_this_version() -> None:
    """The tag in k8s/ is the project's version."""
    version = tomllib.loads((check.ROOT / "pyproject.toml").read_text())["project"]["version"]
    for overlay in check.overlays():
        for thing in kustomize.render(overlay):
            for container in containers_of(pod_of(thing) or {}):
                if container["name"] in {"firstopen", "sandbox"}:
                    assert container["image"] == f"firstopen:{version}"


def test_no_index_or_host_is_named() -> None:
    """Where packages come from is pip's own configuration, wherever the image is built."""
    for name in ("Dockerfile", ".dockerignore", "requirements.build.lock"):
        text = (check.ROOT / name).read_text()
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", text), name


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("service/app.py", True),
        ("service/api/opens.py", True),
        ("requirements.lock", True),
        ("pyproject.toml", True),
        ("service/__pycache__/app.cpython-311.pyc", False),
        ("service/api/__pycache__/opens.pyc", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("tests/requirements.lock", False),
        ("var/firstopen.sqlite", False),
        ("firstopen.toml", False),
        (".env", False),
        ("service/.env", False),
    ],
)
def test_the_context_is_what_is_copied(path: str, kept: bool) -> None:  # noqa: FBT001  a row of a table
    """Secrets, data, tests and history are no part of the build, whatever lies about."""
    assert dockerfile.lets_through(IGNORE, path) is kept


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("FROM a\nADD x y", "does not know ADD"),
        ("FROM a:$TAG", "nothing sets TAG"),
        ("RUN true", "RUN before FROM"),
    ],
)
def test_what_the_reader_does_not_know(tmp_path: Path, text: str, problem: str) -> None:
    """An instruction that image-check would pass over is refused."""
    path = tmp_path / "Dockerfile"
    path.write_text(text)
    with pytest.raises(dockerfile.BadDockerfile, match=problem):
        dockerfile.read(path)


def test_paths_of_the_image_are_mapped_and_no_others(tmp_path: Path) -> None:
    """A command is run as it stands, but for the image's own folders."""
    build = Build(tmp_path, "python3")
    root = tmp_path / "root"
    assert build.mapped("cp /opt/x ./opt/y a/src /src") == f"cp {root}/opt/x ./opt/y a/src {root}/src"
    assert (
        build.mapped("/bin/sh /dev/null PATH=/opt/b:/usr/bin")
        == f"/bin/sh /dev/null PATH={root}/opt/b:/usr/bin"
    )


def test_a_stand_in_is_named_for_what_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An interpreter of another version than the base's is said to be one."""
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho /usr/bin/python 3.1\n")
    old.chmod(0o755)
    assert image_check.stand_in("3.13.1-slim", [str(old)]) == "/usr/bin/python"
    assert "Python 3.1, NOT 3.13" in capsys.readouterr().out
