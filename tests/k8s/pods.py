"""Rules for pods: limits, probes, pinned images, and the restricted Pod Security standard with a bit more."""

import re
from collections.abc import Iterator
from decimal import Decimal

from tests.k8s.documents import Object, containers_of, pod_of, title

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
RESOURCES = ("cpu", "memory", "ephemeral-storage")

_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
_VOLUMES |= {"secret"}
_PINNED = re.compile(r".+(?::[0-9]+\.[0-9]+\.[0-9]+[a-z0-9.-]*|@sha256:[0-9a-f]{64})")
_QUANTITY = re.compile(r"([0-9.]+)(m|Ki|Mi|Gi|Ti|k|M|G|T)?")
_UNITS = {
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", 1)},
}


def complaints(objects: list[Object]) -> list[str]:
    """Return what our rules have against the pods among some objects."""
    found = []
    for thing in objects:
        pod = pod_of(thing)
        if pod is None:
            continue
        found += [f"{title(thing)}: {problem}" for problem in _pod(pod)]
        for container in containers_of(pod):
            where = f"{title(thing)}: container {container['name']}"
            found += [f"{where}: {problem}" for problem in _container(container, pod)]
    return found


def _pod(pod: Object) -> Iterator[str]:
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: expected false"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks: expected false (a Service's name would set FIRSTOPEN_PORT)"
    for name in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
        if name in pod:
            yield f"{name}: not allowed"
    context = pod.get("securityContext", {})
    for name in ("sysctls", "windowsOptions"):
        if name in context:
            yield f"securityContext.{name}: not allowed"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "securityContext.seccompProfile: expected RuntimeDefault"
    yield from _volumes(pod)


def _volumes(pod: Object) -> Iterator[str]:
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']}: of a kind that the restricted standard forbids"
        if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
            yield f"volume {volume['name']}: no sizeLimit"


def _container(container: Object, pod: Object) -> Iterator[str]:
    if not _PINNED.fullmatch(container["image"]):
        yield f"image {container['image']}: expected a full version or a digest"
    if container not in pod.get("initContainers", []):
        yield from _probes(container, pod)
    yield from _resources(container.get("resources", {}))
    yield from _restricted(container.get("securityContext", {}), pod.get("securityContext", {}))
    for mount in container.get("volumeMounts", []):
        if "subPath" in mount or "subPathExpr" in mount:
            yield f"volumeMount {mount['name']}: subPath: a changed ConfigMap would not be seen"
    for port in container.get("ports", []):
        if "hostPort" in port:
            yield f"port {port['containerPort']}: hostPort: not allowed"


def _probes(container: Object, pod: Object) -> Iterator[str]:
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    for name in PROBES:
        probe = container.get(name)
        if not probe:
            yield f"no {name}"
            continue
        for handler in ("httpGet", "tcpSocket"):
            port = probe.get(handler, {}).get("port")
            if port is not None and port not in {*ports, *ports.values()}:
                yield f"{name}: no port {port}"
    pre_stop_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pre_stop_s >= pod.get("terminationGracePeriodSeconds", 30):
        yield "preStop: as long as terminationGracePeriodSeconds, which leaves no time to stop"


def _resources(resources: Object) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name in RESOURCES:
        if name not in requests:
            yield f"resources.requests: no {name}"
        if name not in limits:
            yield f"resources.limits: no {name}"
        if name in requests and name in limits and quantity(requests[name]) > quantity(limits[name]):
            yield f"resources: {name}: requests more than its limit"


def quantity(text: str) -> Decimal:
    """Return what a Kubernetes quantity amounts to; raises ``ValueError``."""
    found = _QUANTITY.fullmatch(str(text))
    if not found:
        raise ValueError(f"not a quantity: {text!r}")
    return Decimal(found[1]) * _UNITS.get(found[2], Decimal(1))


def _restricted(context: Object, pod: Object) -> Iterator[str]:
    """Hold a container to the restricted standard; what it leaves out it has from its pod."""
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "securityContext.runAsNonRoot: expected true"
    if not context.get("runAsUser", pod.get("runAsUser")):
        yield "securityContext.runAsUser: expected a user other than root, by number"
    if not context.get("runAsGroup", pod.get("runAsGroup")):
        yield "securityContext.runAsGroup: expected a group other than root's, by number"
    if context.get("seccompProfile", {"type": "RuntimeDefault"}).get("type") != "RuntimeDefault":
        yield "securityContext.seccompProfile: expected RuntimeDefault"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "securityContext.readOnlyRootFilesystem: expected true"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation: expected false"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "securityContext.capabilities: expected all dropped and none added"
    for name in ("privileged", "procMount", "seLinuxOptions", "windowsOptions", "appArmorProfile"):
        if name in context:
            yield f"securityContext.{name}: not allowed"
