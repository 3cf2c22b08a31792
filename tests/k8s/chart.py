"""Compares what the Helm chart renders with the kustomize base and its components.

What can go wrong: the base gets a change that the chart does not. Each pair in ``PAIRS`` must render the
same objects, but for what ``_comparable`` takes away: labels that only Helm sets, the hash that kustomize
appends to a ConfigMap's name, and the number of replicas, which the chart leaves to the autoscaler.
"""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

from tests.k8s import check, kustomize
from tests.k8s.documents import Object, identity, parse

CHART = check.K8S / "chart"
# What to set in the chart, for each part of the kustomization.
PAIRS = {
    "base": (),
    "base + ingress": ("ingress.enabled=true",),
    "base + monitoring": ("monitoring.enabled=true",),
    "base + external-postgres": ("database.network=10.0.0.0/8",),
}
_HELM_S = 60
_HELMS_LABELS = ("app.kubernetes.io/managed-by", "helm.sh/chart")
_CONFIG = "firstopen-config"


def installed_helm() -> str | None:
    """Return the ``helm`` on PATH, or the one that ``make k8s`` put beside this Python."""
    return shutil.which("helm") or shutil.which("helm", path=str(Path(sys.executable).parent))


def rendered(helm: str, *values: str) -> list[Object]:
    """Render the chart as a release called firstopen; raises ``CalledProcessError``."""
    flags = [flag for value in values for flag in ("--set", value)]
    done = subprocess.run(
        [helm, "template", "firstopen", str(CHART), *flags],
        capture_output=True,
        text=True,
        timeout=_HELM_S,
        check=True,
    )
    return parse(done.stdout, "helm")


def differences(helm: str) -> dict[str, list[str]]:
    """Return, for each pair, the objects that differ."""
    with check.parts() as folders:
        return {
            name: _differing(rendered(helm, *values), kustomize.render(folders[name]))
            for name, values in PAIRS.items()
        }


def _differing(ours: list[Object], theirs: list[Object]) -> list[str]:
    chart = {identity(thing): thing for thing in map(_comparable, ours)}
    base = {identity(thing): thing for thing in map(_comparable, theirs)}
    return [
        f"{'/'.join(key)}: the chart renders it differently"
        for key in sorted(chart.keys() | base.keys())
        if chart.get(key) != base.get(key)
    ]


def _comparable(thing: Object) -> Object:
    thing = copy.deepcopy(thing)
    labels = thing["metadata"].get("labels", {})
    for label in _HELMS_LABELS:
        labels.pop(label, None)
    if thing["kind"] == "ConfigMap" and thing["metadata"]["name"].startswith(_CONFIG):
        thing["metadata"]["name"] = _CONFIG
    if thing["kind"] == "Deployment":
        thing["spec"].pop("replicas", None)
        for volume in thing["spec"]["template"]["spec"]["volumes"]:
            if "configMap" in volume:
                volume["configMap"]["name"] = _CONFIG
    return thing
