"""``compose.yaml`` starts what the image and the manifests describe: no root, and no secret in the file."""

import re
from typing import Any

import pytest

from service.config.settings import parse
from tests.k8s import check, dockerfile, kustomize
from tests.k8s.documents import containers_of, pod_of, read

SECRET = re.compile(r"\$\{POSTGRES_PASSWORD:\?.+\}")


@pytest.fixture(scope="module")
def services() -> Any:
    (document,) = read(check.ROOT / "compose.yaml")
    return document["services"]


@pytest.mark.parametrize("name", ["firstopen", "database", "demo"])
def test_a_container_is_confined(services: Any, name: str) -> None:
    """No root, nothing writable but volumes and tmpfs, no capabilities, a bound on memory."""
    container = services[name]
    user, group = container["user"].split(":")
    assert int(user) > 0 < int(group)
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in container["tmpfs"]
    assert container["mem_limit"]
    assert not container.keys() & {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"}


def test_nothing_but_the_opens_port_is_published(services: Any) -> None:
    """Loopback only, for a reverse proxy on the machine; neither metrics nor the database."""
    assert services["firstopen"]["ports"] == ["127.0.0.1:8000:8000"]
    assert "ports" not in services["database"]
    assert services["firstopen"]["environment"]["FIRSTOPEN_OPS_PORT"] != "8000"


def test_the_demo_is_on_this_machine_only(services: Any) -> None:
    """It has a public secret: loopback only, no volume, and never started by ``docker compose up`` alone."""
    demo = services["demo"]
    assert demo["profiles"] == ["demo"]
    assert demo["ports"] == ["127.0.0.1:8000:8000", "127.0.0.1:8001:8001"]
    assert "volumes" not in demo
    assert "env_file" not in demo


def test_firstopen_starts_with_its_environment(services: Any) -> None:
    """The image's user, folders and time to stop; what the file sets and what ``.env`` adds is a boot."""
    _, stages = dockerfile.read(check.ROOT / "Dockerfile")
    container = services["firstopen"]
    assert container["user"] == stages[-1].last("USER").text
    environment = container["environment"]
    assert f"./firstopen.toml:{environment['FIRSTOPEN_CONFIG']}:ro" in container["volumes"]
    assert [file["path"] for file in container["env_file"]] == [".env"]
    url = SECRET.sub("abc", environment["FIRSTOPEN_DATABASE_URL"])
    told = {name: f"{name}-".ljust(40, "x") for name in ("FIRSTOPEN_SECRET", "ACME_DUB_API_KEY")}
    settings = parse(
        (check.K8S / "base" / "firstopen.toml").read_text(),
        {**environment, **told, "ACME_SERVER_KEYS": "of-a-backend", "FIRSTOPEN_DATABASE_URL": url},
    )
    assert settings.database_url == "postgresql://firstopen:abc@database:5432/firstopen"
    needed_s = (settings.server.drain_ms + 2 * settings.server.stop_ms) / 1000
    assert int(container["stop_grace_period"].removesuffix("s")) >= needed_s


def test_firstopen_waits_for_the_database(services: Any) -> None:
    """The database is asked over TCP, so that the server of its first preparation does not count."""
    assert services["firstopen"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert "--host=127.0.0.1" in services["database"]["healthcheck"]["test"]


def test_the_database_is_that_of_the_kubernetes_component(services: Any) -> None:
    """One PostgreSQL image, run as one user, with one name for the database and its owner."""
    objects = kustomize.render(check.K8S / "overlays" / "dev")
    pod = next(pod_of(thing) for thing in objects if thing["kind"] == "StatefulSet")
    assert pod
    (container,) = containers_of(pod)
    database = services["database"]
    assert database["image"] == container["image"]
    assert database["user"] == "{runAsUser}:{runAsGroup}".format(**pod["securityContext"])
    in_pod = {each["name"]: each["value"] for each in container["env"]}
    for name in ("POSTGRES_USER", "POSTGRES_DB"):
        assert database["environment"][name] == in_pod[name]


def test_secrets_come_from_the_env_file(services: Any) -> None:
    """No password is in the file, and without one nothing starts."""
    password = services["database"]["environment"]["POSTGRES_PASSWORD"]
    assert SECRET.fullmatch(password)
    assert password in services["firstopen"]["environment"]["FIRSTOPEN_DATABASE_URL"]
    assert "/.env" in (check.ROOT / ".gitignore").read_text().splitlines()
