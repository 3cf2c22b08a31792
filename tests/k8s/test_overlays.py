"""Each overlay is valid, and what is broken in any of the ways we thought of is refused by name."""

import copy
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.k8s import __main__ as command
from tests.k8s import check, kustomize, references
from tests.k8s.documents import Object, title

DROP = object()
POD = "spec.template.spec"
BOX = f"{POD}.containers.0"
SAFE = f"{BOX}.securityContext"


@cache
def _rendered(name: str) -> list[Object]:
    if name in {"dev", "production"}:
        return kustomize.render(check.K8S / "overlays" / name)
    with check.parts() as folders:
        return kustomize.render(folders[name])


def rendered(name: str) -> list[Object]:
    return copy.deepcopy(_rendered(name))


def change(objects: list[Object], name: str, path: str, value: Any) -> None:
    """Set what a dotted path leads to in one object, or drop it. A list's entry goes by number or name."""
    *recorder, last = path.split(".") if path else ["", ""]
    at: Any = next(
        thing for thing in objects if re.fullmatch(rf"{name}(/.*)?|{name}-[a-z0-9]{{10}}", title(thing))
    )
    if not path:
        objects.remove(at)
        return
    for step in recorder:
        at = at[_key(at, step)]
    key = _key(at, last)
    if value is DROP:
        del at[key]
    elif isinstance(at, list) and key == len(at):
        at.append(value)
    else:
        at[key] = value


def _key(at: Any, step: str) -> Any:
    if not isinstance(at, list):
        return step.replace("|", ".")
    if step.isdecimal():
        return int(step)
    return next(number for number, entry in enumerate(at) if entry["name"] == step)


def test_there_are_the_overlays_we_speak_of() -> None:
    """The two overlays exist, and all components are in what is checked."""
    assert [folder.name for folder in check.overlays()] == ["dev", "production"]
    with check.parts() as folders:
        names = set(folders)
    components = {"httproute", "ingress", "monitoring", "nat64"}
    components |= {"cloudnative-pg", "external-postgres", "postgres"}
    assert names == {"base", *(f"base + {component}" for component in components)}


@pytest.mark.parametrize("name", ["dev", "production"])
def test_each_overlay_is_valid(name: str) -> None:
    """An overlay holds against Kubernetes' schemas and every rule of ours."""
    assert check.complaints(rendered(name)) == []


def test_each_part_is_valid() -> None:
    """So do the base alone, and the base with each component."""
    with check.parts() as folders:
        for folder in folders.values():
            assert check.complaints(kustomize.render(folder), overlay=False) == []


SCHEMA = [
    ("Deployment", f"{BOX}.lifecyle", {}, "'lifecyle' was unexpected"),
    ("Deployment", f"{BOX}.readinessProbe.httpGet.prot", 1, "'prot' was unexpected"),
    ("Deployment", "spec.replicas", "3", "'3' is not of type"),
    ("Deployment", "apiVersion", "apps/v1beta1", "apps/v1beta1"),
    ("Service", "spec.ports.0.port", DROP, "'port' is a required property"),
    ("PodDisruptionBudget", "spec.maxUnavalable", 1, "'maxUnavalable' was unexpected"),
    ("PrometheusRule", "spec.groups.0.rules.0.exp", "1", "'exp' was unexpected"),
    ("PrometheusRule", "spec.groups.0.rules.0.annotations.runbook_url", DROP, "'runbook_url' is a required"),
    ("ServiceMonitor", "spec.endpoints.0.interval", "15", "'15' does not match"),
    ("Cluster", "spec.postgresql.synchronous.nmber", 1, "'nmber' was unexpected"),
    ("Cluster", "spec.postgresql.parameters.max_connections", 250, "250 is not of type 'string'"),
    ("Cluster", "spec.storage", DROP, "'storage' is a required property"),
]
PODS = [
    *(("Deployment", f"{BOX}.{probe}Probe", DROP, f"no {probe}Probe") for probe in ("startup", "liveness")),
    ("Deployment", f"{BOX}.readinessProbe", DROP, "container firstopen: no readinessProbe"),
    ("Deployment", f"{BOX}.readinessProbe.httpGet.port", "web", "readinessProbe: no port web"),
    ("Deployment", f"{BOX}.image", "firstopen:latest", "expected a full version or a digest"),
    ("Deployment", f"{BOX}.image", "firstopen", "expected a full version or a digest"),
    ("Deployment", f"{BOX}.resources.limits.memory", DROP, "limits: no memory"),
    ("Deployment", f"{BOX}.resources.requests", DROP, "requests: no cpu"),
    ("Deployment", f"{BOX}.resources.requests.memory", "1Gi", "memory: requests more than its limit"),
    ("Deployment", f"{BOX}.lifecycle", DROP, "no preStop"),
    ("Deployment", f"{BOX}.lifecycle.preStop.sleep.seconds", 40, "leaves no time to stop"),
    ("Deployment", f"{POD}.securityContext.runAsUser", 0, "a user other than root"),
    ("Deployment", f"{POD}.securityContext.runAsGroup", 0, "a group other than root's"),
    ("Deployment", f"{POD}.securityContext.runAsNonRoot", DROP, "runAsNonRoot: expected true"),
    ("Deployment", f"{POD}.securityContext.seccompProfile", DROP, "seccompProfile: expected RuntimeDefault"),
    ("Deployment", f"{POD}.securityContext.sysctls", [], "sysctls: not allowed"),
    ("Deployment", f"{SAFE}.readOnlyRootFilesystem", False, "readOnlyRootFilesystem: expected true"),
    ("Deployment", f"{SAFE}.allowPrivilegeEscalation", DROP, "allowPrivilegeEscalation: expected false"),
    ("Deployment", f"{SAFE}.capabilities.add", ["NET_RAW"], "capabilities: expected all dropped"),
    ("Deployment", f"{SAFE}.runAsUser", 0, "a user other than root"),
    ("Deployment", f"{SAFE}.privileged", True, "privileged: not allowed"),
    ("Deployment", f"{SAFE}.seccompProfile", {"type": "Unconfined"}, "expected RuntimeDefault"),
    ("Deployment", f"{POD}.automountServiceAccountToken", True, "automountServiceAccountToken"),
    ("Deployment", f"{POD}.enableServiceLinks", DROP, "enableServiceLinks: expected false"),
    ("Deployment", f"{POD}.hostNetwork", True, "hostNetwork: not allowed"),
    ("Deployment", f"{POD}.volumes.tmp", {"name": "tmp", "hostPath": {"path": "/"}}, "restricted standard"),
    ("Deployment", f"{POD}.volumes.tmp.emptyDir", {}, "no sizeLimit"),
    ("Deployment", f"{BOX}.ports.0.hostPort", 80, "hostPort: not allowed"),
]
NAMES = [
    ("Deployment", f"{POD}.serviceAccountName", "other", "no ServiceAccount/other"),
    ("Deployment", f"{POD}.volumes.config.configMap.name", "other", "no ConfigMap/other"),
    ("Deployment", f"{POD}.volumes.config.configMap.items", [{"key": "x", "path": "x"}], "has no key x"),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_SECRET.valueFrom.secretKeyRef.name",
        "other",
        "no Secret/other, and it is not",
    ),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_SECRET.valueFrom.secretKeyRef.key",
        "OTHER",
        "external without a key OTHER",
    ),
    ("Deployment", f"{BOX}.envFrom", [{"secretRef": {"name": "other"}}], "no Secret/other"),
    ("Deployment", f"{BOX}.envFrom", [{"configMapRef": {"name": "other"}}], "no ConfigMap/other"),
    ("Deployment", f"{BOX}.volumeMounts.tmp.name", "tp", "there is no volume tp"),
    ("Deployment", f"{POD}.volumes.3", {"name": "x", "emptyDir": {"sizeLimit": "1Mi"}}, "mounted nowhere"),
    ("Deployment", "spec.selector.matchLabels.x", "y", "does not match the pods' own labels"),
    (
        "Deployment",
        f"{POD}.topologySpreadConstraints.0.labelSelector.matchLabels.x",
        "y",
        "not the pods' own",
    ),
    ("Service", "spec.selector.x", "y", "spec.selector: selects no pod"),
    ("Service", "spec.ports.0.targetPort", "web", "targetPort web: no pod has it"),
    ("PodDisruptionBudget", "spec.selector.matchLabels.x", "y", "selects no pod"),
    ("HorizontalPodAutoscaler", "spec.scaleTargetRef.name", "other", "no Deployment/other"),
    ("HorizontalPodAutoscaler", "spec.metrics.0.resource.name", "gpu", "does not request it"),
    ("NetworkPolicy/firstopen", "spec.podSelector.matchLabels.x", "y", "no NetworkPolicy closes it"),
    ("NetworkPolicy/firstopen", "spec.ingress.0.ports.0.port", "web", "no pod has port web"),
    ("NetworkPolicy/firstopen", "spec.ingress.0.from", DROP, "lets everything through"),
    ("NetworkPolicy/firstopen", "spec.ingress.0.from.0", {"namespaceSelector": {}}, "expected kubernetes.io"),
    (
        "NetworkPolicy/firstopen",
        "spec.egress.0.to.0.namespaceSelector.matchLabels.kubernetes|io/metadata|name",
        "x",
        "no Namespace/x",
    ),
    (
        "NetworkPolicy/firstopen-to-database",
        "spec.egress.0.to.0.podSelector.matchLabels.a",
        "b",
        "no Pods/a=b",
    ),
    (
        "NetworkPolicy/firstopen-database",
        "spec.podSelector.matchLabels.cnpg|io/cluster",
        "other",
        "selects no pod",
    ),
    ("NetworkPolicy/firstopen-database", "spec.ingress.1.ports.1.port", 8001, "no pod has port 8001"),
    ("Ingress", "spec.ingressClassName", "other", "no IngressClass/other"),
    ("Ingress", "spec.tls.0.secretName", "other", "no Secret/other"),
    ("Ingress", "spec.rules.0.http.paths.0.backend.service.name", "other", "no Service/other"),
    ("Ingress", "spec.rules.0.http.paths.0.backend.service.port.name", "web", "no port web"),
    ("ServiceMonitor", "spec.endpoints.0.port", "web", "has a port web"),
    ("ServiceMonitor", "spec.selector.matchLabels.x", "y", "selects no Service"),
    ("ServiceAccount", "", DROP, "no ServiceAccount/firstopen"),
    ("Deployment", f"{BOX}.volumeMounts.config.subPath", "firstopen.toml", "would not be seen"),
    ("Service", "", DROP, "no Service/firstopen"),
]
PRODUCT = [
    ("ConfigMap/firstopen-config", "kind", "Secret", "made by command, and never in a file"),
    ("Namespace", "metadata.labels", {}, "does not enforce the restricted"),
    ("Deployment", "spec.replicas", 3, "every apply would undo"),
    ("Deployment", "spec.strategy.rollingUpdate.maxUnavailable", 1, "maxUnavailable 0"),
    ("Deployment", f"{POD}.terminationGracePeriodSeconds", 29, "expected 30 at least"),
    ("Deployment", f"{BOX}.env.FIRSTOPEN_CONFIG.value", "/etc/other.toml", "nothing is at '/etc/other.toml'"),
    ("Deployment", f"{BOX}.env.FIRSTOPEN_CONFIG.name", "FIRSTOPEN_CONFG", "nothing is at ''"),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_FORWARDED_ALLOW_IPS.name",
        "FIRSTOPEN_FORWARDED_IPS",
        "_IPS: unknown variable",
    ),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_FORWARDED_ALLOW_IPS.value",
        "10.0.0.0/33",
        "FIRSTOPEN_FORWARDED_ALLOW_IPS: expected",
    ),
    ("Deployment", f"{BOX}.env.FIRSTOPEN_PORT.value", "8080", "is not the container's port http"),
    ("Deployment", f"{BOX}.env.FIRSTOPEN_HOST.value", "127.0.0.1", "FIRSTOPEN_HOST: expected ::"),
    ("Deployment", f"{BOX}.env.FIRSTOPEN_HOST.value", "0.0.0.0", "FIRSTOPEN_HOST: expected ::"),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_OPS_PORT",
        DROP,
        "FIRSTOPEN_OPS_PORT None is not the container's port ops",
    ),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_OPS_PORT.value",
        "9001",
        "FIRSTOPEN_OPS_PORT 9001 is not the container's port ops",
    ),
    (
        "Deployment",
        f"{BOX}.env.FIRSTOPEN_OPS_PORT.value",
        "8000",
        "FIRSTOPEN_OPS_PORT: expected a port other than",
    ),
    (
        "Deployment",
        f"{BOX}.env.ACME_DUB_API_KEY",
        DROP,
        "dub_api_key_env: the environment variable ACME_DUB_API_KEY",
    ),
    ("Deployment", f"{BOX}.volumeMounts.tmp.mountPath", "/temp", "nothing writable is mounted at '/tmp'"),
    ("Deployment", f"{BOX}.volumeMounts.tmp.readOnly", True, "nothing writable is mounted at '/tmp'"),
    ("Deployment", f"{BOX}.env.FIRSTOPEN_DATABASE_URL", DROP, "replicas would share nothing"),
    ("ConfigMap/firstopen-config", "data.firstopen|toml", "[apps.a]\nx = 1", "firstopen.toml: apps.a"),
    (
        "ConfigMap/firstopen-config",
        "data",
        {"other.toml": ""},
        "nothing is at '/etc/firstopen/firstopen.toml'",
    ),
    ("Ingress", "spec.rules.0.http.paths.0.path", "/", "exposes"),
    ("Ingress", "spec.rules.0.http.paths.2.pathType", "Prefix", "exposes"),
    (
        "Ingress",
        "spec.defaultBackend",
        {"service": {"name": "a", "port": {"number": 1}}},
        "exposes everything",
    ),
]
PRODUCT += [
    ("Cluster", "spec.postgresql.parameters.max_connections", "199", "expected 200 at least"),
    ("Deployment", f"{BOX}.env.PGSSLMODE.name", "PQSSLMODE", "nothing reads PQSSLMODE"),
]
ALL = {"cidr": "0.0.0.0/0"}
NAT64 = "spec.egress.0.to.0.ipBlock"
INTERNET = "spec.egress.1.to"
DATABASE, TO_DATABASE = "NetworkPolicy/firstopen-database", "NetworkPolicy/firstopen-to-database"
FIRSTOPEN_IN = "spec.ingress.0.from.0.podSelector.matchLabels"
OPERATOR_IN = "spec.ingress.1.from.1"
NETWORK = [
    ("NetworkPolicy/default-deny", "", DROP, "no NetworkPolicy denies by default"),
    ("NetworkPolicy/default-deny", "metadata.namespace", "other", "no NetworkPolicy denies by default"),
    ("NetworkPolicy/default-deny", "spec.policyTypes", ["Ingress"], "no NetworkPolicy denies by default"),
    ("NetworkPolicy/default-deny", "spec.egress", [{"to": [{"ipBlock": ALL}]}], "denies by default"),
    ("NetworkPolicy/firstopen", "spec.ingress.0.ports.0.port", "ops", "others than Prometheus reach"),
    ("NetworkPolicy/firstopen", "spec.ingress.1.from.0.podSelector", DROP, "others than Prometheus reach"),
    ("NetworkPolicy/firstopen", "spec.ingress.1.ports.0.port", "http", "Prometheus reaches ['http']"),
    ("NetworkPolicy/firstopen", "spec.egress.0.to.1", DROP, "over UDP"),
    ("NetworkPolicy/firstopen", "spec.egress.0.ports.1", DROP, "over TCP"),
    ("NetworkPolicy/firstopen", f"{INTERNET}.0.ipBlock.except.3", DROP, "includes 169.254.0.0/16"),
    ("NetworkPolicy/firstopen", f"{INTERNET}.1.ipBlock.cidr", "::/0", "includes 64:ff9b::/96"),
    ("NetworkPolicy/firstopen", f"{INTERNET}.1.ipBlock.cidr", "::/0", "includes 64:ff9b:1::/48"),
    ("NetworkPolicy/firstopen", f"{INTERNET}.1.ipBlock.cidr", "::/0", "includes fc00::/7"),
    ("NetworkPolicy/firstopen", f"{INTERNET}.1.ipBlock.cidr", "::/0", "includes fe80::/10"),
    ("NetworkPolicy/firstopen", f"{INTERNET}.1.ipBlock.except.2", DROP, "includes 2002::/16"),
    (
        "Ingress",
        "spec.rules.0.http.paths.0.backend.service.port.name",
        "ops",
        "which is for Prometheus alone",
    ),
    ("ServiceMonitor", "spec.endpoints.0.port", "http", "expected ops"),
    ("Service", "spec.ports.0.targetPort", "ops", "which is for Prometheus alone"),
    (DATABASE, "", DROP, "no NetworkPolicy closes it for ingress"),
    (DATABASE, "spec.policyTypes", ["Ingress"], "no NetworkPolicy closes it for egress"),
    (DATABASE, FIRSTOPEN_IN, {"app.kubernetes.io/name": "prometheus"}, "lets firstopen in"),
    (DATABASE, f"{OPERATOR_IN}.podSelector", DROP, "others than firstopen reach it"),
    (DATABASE, f"{OPERATOR_IN}.namespaceSelector", DROP, "others than firstopen reach it"),
    (TO_DATABASE, "", DROP, "no NetworkPolicy lets firstopen out to it"),
    (TO_DATABASE, "spec.egress.0.to.1", {"ipBlock": {"cidr": "10.0.0.0/8"}}, "other databases, too"),
]
METRICS = [
    ("PrometheusRule", "spec.groups.0.rules.0.expr", "up == 0", "there is no metric up"),
    ("PrometheusRule", "spec.groups.0.rules.0.expr", "sum(", "not PromQL"),
    ("PrometheusRule", "spec.groups.0.rules.0.expr", "firstopen_shed_total > 1", "only ever grows"),
    ("PrometheusRule", "spec.groups.0.rules.0.expr", "rate(firstopen_in_flight[1m])", "it has no rate"),
    (
        "PrometheusRule",
        "spec.groups.0.rules.0.expr",
        "firstopen_request_seconds",
        "no metric firstopen_request_sec",
    ),
    ("PrometheusRule", "spec.groups.0.rules.0.expr", 'firstopen_in_flight{a="b"}', "has no label a"),
    ("PrometheusRule", "spec.groups.0.rules.0.expr", "sum by (a) (firstopen_in_flight)", "has no label a"),
    ("HorizontalPodAutoscaler", "spec.metrics.1.pods.metric.name", "in_flight", "no metric in_flight"),
    ("ServiceMonitor", "spec.endpoints.0.honorLabels", DROP, "endpoint of ours is renamed"),
]


@pytest.mark.parametrize(("name", "path", "value", "complaint"), SCHEMA)
def test_what_no_schema_has_is_refused(name: str, path: str, value: Any, complaint: str) -> None:
    """An unknown or missing field, or a wrong type, anywhere in the production overlay is named."""
    objects = rendered("production")
    change(objects, name, path, value)
    found = check.complaints(objects)
    assert any(complaint in problem for problem in found), found


@pytest.mark.parametrize(
    ("name", "path", "value", "complaint"), [*PODS, *NAMES, *PRODUCT, *NETWORK, *METRICS]
)
def test_what_breaks_a_rule_is_refused(name: str, path: str, value: Any, complaint: str) -> None:
    """One thing broken in the production overlay is named, in the object where it is."""
    objects = rendered("production")
    change(objects, name, path, value)
    found = check.broken_rules(objects)
    assert any(complaint in problem for problem in found), found


@pytest.mark.parametrize(
    ("part", "name", "path", "value", "complaint"),
    [
        ("base + httproute", "HTTPRoute", "spec.rules.0.matches.0.path.value", "/", "exposes"),
        ("base + httproute", "HTTPRoute", "spec.rules.0.backendRefs.0.port", 81, "no port 81"),
        ("base + httproute", "HTTPRoute", "spec.rules.0.backendRefs.0.port", 9000, "for Prometheus alone"),
        ("base + nat64", "NetworkPolicy/firstopen-nat64", f"{NAT64}.except.3", DROP, "::a9fe:0/112"),
        ("base + nat64", "NetworkPolicy/firstopen-nat64", f"{NAT64}.except", [], "::a00:0/104"),
        ("base + httproute", "HTTPRoute", "spec.parentRefs.0.name", "x", "no Gateway/gateway/x"),
        ("base + postgres", "StatefulSet", "spec.serviceName", "other", "no Service/other"),
        ("base + postgres", "StatefulSet", f"{BOX}.volumeMounts.data.name", "x", "there is no volume x"),
        ("base + postgres", "StatefulSet", f"{SAFE}.readOnlyRootFilesystem", False, "readOnlyRootFilesystem"),
        ("base + postgres", "StatefulSet", f"{POD}.securityContext.runAsUser", 0, "other than root"),
        ("base + postgres", "StatefulSet", f"{BOX}.livenessProbe.tcpSocket.port", "x", "no port x"),
        ("base + postgres", "StatefulSet", f"{BOX}.args", [], "max_connections: expected 200"),
        (
            "base + postgres",
            "StatefulSet",
            f"{POD}.volumes.password.secret.items.0.key",
            "x",
            "without a key x",
        ),
        ("base + postgres", DATABASE, "", DROP, "no NetworkPolicy closes it"),
        ("base + postgres", DATABASE, "spec.ingress", [], "no NetworkPolicy lets firstopen in"),
        ("base + postgres", DATABASE, f"{FIRSTOPEN_IN}", {}, "others than firstopen reach it"),
        ("base + postgres", TO_DATABASE, "", DROP, "no NetworkPolicy lets firstopen out to it"),
        ("dev", "Deployment", f"{POD}.containers.1.livenessProbe", DROP, "sandbox: no livenessProbe"),
    ],
)
def test_a_broken_part_is_refused(part: str, name: str, path: str, value: Any, complaint: str) -> None:
    """So it is in what the production overlay leaves out."""
    objects = rendered(part)
    change(objects, name, path, value)
    found = check.broken_rules(objects, overlay=part == "dev")
    assert any(complaint in problem for problem in found), found


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("base/deployment.yaml", "readinessProbe:", "readynessProbe:", "'readynessProbe' was unexpected"),
        ("base/deployment.yaml", "        readinessProbe:\n", "", "'httpGet' is there twice"),
        (
            "base/deployment.yaml",
            "readOnlyRootFilesystem: true",
            "privileged: true",
            "privileged: not allowed",
        ),
        ("overlays/production/kustomization.yaml", "images:", "imagez:", "does not know imagez"),
    ],
)
def test_make_k8s_fails_on_a_broken_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, complaint: str
) -> None:
    """From the file to the exit status: the command says what is wrong, and ends with 1."""
    tree = Path(shutil.copytree(check.K8S, tmp_path / "k8s"))
    overlay = str(tree / "overlays" / "production")
    assert command.main([overlay], renderer=[]) == 0
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))
    assert command.main([overlay], renderer=[]) == 1
    said = capsys.readouterr().out
    assert "REFUSED" in said
    assert complaint in said


def test_the_image_by_digest(tmp_path: Path) -> None:
    """The production overlay's comment shows the image by digest; put in place of the tag, it is valid."""
    tree = Path(shutil.copytree(check.K8S, tmp_path / "k8s"))
    overlay = tree / "overlays" / "production"
    text = (overlay / "kustomization.yaml").read_text()
    digest = re.search(r"^# +(digest: sha256:[0-9a-f]{64})$", text, re.MULTILINE)
    assert digest
    (overlay / "kustomization.yaml").write_text(text.replace("newTag: 0.2.0", digest[1]))
    assert command.main([str(overlay)], renderer=[]) == 0


def test_make_k8s_holds_a_renderer_to_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a kustomize is installed and renders something else, or fails, that is an error too."""
    overlay = str(check.K8S / "overlays" / "production")
    other = tmp_path / "kustomize"
    other.write_text("#!/bin/sh\nprintf 'kind: Secret\\nmetadata: {name: x}\\n'\n")
    other.chmod(0o755)
    assert command.main([overlay], renderer=[str(other)]) == 1
    assert "Secret/x: kustomize renders it differently" in capsys.readouterr().out
    other.write_text("#!/bin/sh\necho no such field >&2; exit 1\n")
    assert command.main([overlay], renderer=[str(other)]) == 1
    assert "no such field" in capsys.readouterr().out


def test_what_is_external_is_used_and_explained() -> None:
    """Everything that others make is needed by some part, and named by docs/kubernetes.md."""
    page = (check.ROOT / "docs" / "kubernetes.md").read_text()
    needed = "\n".join(str(rendered(name)) for name in ("dev", "production", "base + httproute"))
    for reference, keys in references.EXTERNAL.items():
        name = reference.rpartition("/")[2]
        for word in (*keys, *name.split("=")):
            assert word in needed
            assert word in page, f"docs/kubernetes.md does not say how {word} comes to be"
