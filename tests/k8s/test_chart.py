"""The Helm chart renders what the kustomize base and its components render.

Without helm the comparison is left out, and ``make k8s``, which installs it where it can, says so.
"""

import subprocess

import pytest

from tests.k8s import chart, check

HELM = chart.installed_helm()
pytestmark = pytest.mark.skipif(HELM is None, reason="helm is missing; `make k8s` installs it")


@pytest.fixture
def helm() -> str:
    assert HELM is not None
    return HELM


def test_it_renders_the_same_objects(helm: str) -> None:
    assert chart.differences(helm) == {name: [] for name in chart.PAIRS}


def test_a_difference_is_found(helm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "PAIRS", {"base": ("resources.limits.cpu=2",)})
    assert chart.differences(helm) == {"base": ["Deployment/firstopen: the chart renders it differently"]}


def test_lint_finds_nothing(helm: str) -> None:
    done = subprocess.run(
        [helm, "lint", "--strict", str(chart.CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("value", ["autoscaling.enabled=false", "networkPolicy.enabled=false"])
def test_what_is_switched_off_is_not_rendered(helm: str, value: str) -> None:
    kinds = {
        "autoscaling.enabled=false": "HorizontalPodAutoscaler",
        "networkPolicy.enabled=false": "NetworkPolicy",
    }
    rendered = chart.rendered(helm, value)
    assert kinds[value] not in {thing["kind"] for thing in rendered}
    assert kinds[value] in {thing["kind"] for thing in chart.rendered(helm)}


def test_values_reach_the_pods(helm: str) -> None:
    """Own configuration, image by digest, secrets of two apps, a proxy."""
    values = (
        "image.repository=registry.example/firstopen",
        "image.digest=sha256:0123",
        "secret.variables={ACME_DUB_API_KEY,GLOBEX_DUB_API_KEY}",
        "env[0].name=HTTPS_PROXY,env[0].value=http://proxy:3128",
        "config=[apps.globex]",
    )
    objects = {thing["kind"]: thing for thing in chart.rendered(helm, *values)}
    container = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example/firstopen@sha256:0123"
    assert {"GLOBEX_DUB_API_KEY", "HTTPS_PROXY"} < {variable["name"] for variable in container["env"]}
    assert objects["ConfigMap"]["data"]["firstopen.toml"].strip() == "[apps.globex]"


def test_its_objects_are_valid(helm: str) -> None:
    """Everything switched on passes the checks that the overlays pass."""
    objects = chart.rendered(helm, *(value for values in chart.PAIRS.values() for value in values))
    assert check.complaints(objects, overlay=False) == []
