"""Rules for references: every name exists, or is declared external here; every selector selects."""

from collections.abc import Iterator, Mapping

from tests.k8s.documents import CLUSTER_PORTS, Object, containers_of, identity, pod_labels, pod_of, title
from tests.k8s.kustomize import each_config_map_reference

# What k8s/ refers to and does not make, with the keys it takes from it. How to make it: docs/kubernetes.md.
EXTERNAL: Mapping[str, frozenset[str]] = {
    "Secret/firstopen-secrets": frozenset(
        {
            "FIRSTOPEN_SECRET",
            "ACME_DUB_API_KEY",
            "ACME_SERVER_KEYS",
        }
    ),
    # CloudNativePG's operator makes these two; without it, the first is made by command.
    "Secret/firstopen-database-app": frozenset({"uri", "password"}),
    "Secret/firstopen-database-ca": frozenset({"ca.crt"}),
    "Secret/firstopen-tls": frozenset(),
    "IngressClass/nginx": frozenset(),
    "Gateway/gateway/gateway": frozenset(),
    "Namespace/cnpg-system": frozenset(),
    "Namespace/gateway": frozenset(),
    "Namespace/ingress-nginx": frozenset(),
    "Namespace/kube-system": frozenset(),
    "Namespace/monitoring": frozenset(),
}
_NAMESPACE_NAME = "kubernetes.io/metadata.name"
_PERSISTENT = "volumeClaimTemplates"


def complaints(objects: list[Object]) -> list[str]:
    """Return which names and selectors of some objects lead nowhere."""
    found = []
    for thing in objects:
        rule = _RULES.get(thing["kind"])
        problems = [*rule(thing, objects)] if rule else []
        if pod_of(thing) is not None:
            problems += [*_workload(thing, objects), *_mounts(thing)]
        if pod_labels(thing) is not None:
            problems += _policed(thing, objects)
        found += [f"{title(thing)}: {problem}" for problem in problems]
    return found


def _find(objects: list[Object], kind: str, name: str) -> Object | None:
    return next((thing for thing in objects if identity(thing) == (kind, name)), None)


def _needs(objects: list[Object], kind: str, name: str, key: str | None = None) -> Iterator[str]:
    """Complain unless an object (and a key in it) is among ours or declared external."""
    thing = _find(objects, kind, name)
    if thing is not None:
        if key is not None and key not in thing.get("data", {}):
            yield f"{kind}/{name} has no key {key}"
    elif f"{kind}/{name}" not in EXTERNAL:
        yield f"there is no {kind}/{name}, and it is not declared external"
    elif key is not None and key not in EXTERNAL[f"{kind}/{name}"]:
        yield f"{kind}/{name} is declared external without a key {key}"


def _selected(selector: Object, objects: list[Object]) -> list[Object]:
    """Return the workloads whose pods a label selector selects."""
    wanted = selector.get("matchLabels", {}).items()
    labels = [(thing, pod_labels(thing)) for thing in objects]
    return [thing for thing, its in labels if its is not None and wanted <= its.items()]


def _port_names(workloads: list[Object]) -> set[object]:
    names: set[object] = set()
    for thing in workloads:
        if thing["kind"] == "Cluster":
            names |= {*CLUSTER_PORTS, *CLUSTER_PORTS.values()}
        for container in containers_of(pod_of(thing) or {}):
            for port in container.get("ports", []):
                names |= {port.get("name"), port["containerPort"]}
    return names


def _selects(selector: Object, objects: list[Object], what: str) -> Iterator[str]:
    if selector.keys() - {"matchLabels"} or not selector.get("matchLabels"):
        yield f"{what}: expected matchLabels and nothing else"
    elif not _selected(selector, objects):
        yield f"{what}: selects no pod"


def _workload(thing: Object, objects: list[Object]) -> Iterator[str]:
    pod = pod_of(thing) or {}
    if not thing["spec"]["selector"]["matchLabels"].items() <= (pod_labels(thing) or {}).items():
        yield "spec.selector: does not match the pods' own labels"
    for constraint in pod.get("topologySpreadConstraints", []):
        if thing not in _selected(constraint.get("labelSelector", {}), objects):
            yield f"topologySpreadConstraints: {constraint['topologyKey']}: not the pods' own labels"
    yield from _needs(objects, "ServiceAccount", pod.get("serviceAccountName", "default"))
    yield from _config_maps(pod, objects)
    yield from _secrets(pod, objects)


def _config_maps(pod: Object, objects: list[Object]) -> Iterator[str]:
    references: list[Object] = []
    each_config_map_reference(pod, references.append)
    for reference in references:
        keys = [reference["key"]] if "key" in reference else []
        keys += [item["key"] for item in reference.get("items", [])]
        for key in keys or [None]:
            yield from _needs(objects, "ConfigMap", reference["name"], key)


def _secrets(pod: Object, objects: list[Object]) -> Iterator[str]:
    for volume in pod.get("volumes", []):
        if "secret" in volume:
            for item in volume["secret"].get("items", [{"key": None}]):
                yield from _needs(objects, "Secret", volume["secret"]["secretName"], item["key"])
    for container in containers_of(pod):
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                yield from _needs(objects, "Secret", source["secretRef"]["name"])
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                reference = variable["valueFrom"]["secretKeyRef"]
                yield from _needs(objects, "Secret", reference["name"], reference["key"])


def _mounts(thing: Object) -> Iterator[str]:
    pod = pod_of(thing) or {}
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in thing["spec"].get(_PERSISTENT, [])}
    mounted = {mount["name"] for each in containers_of(pod) for mount in each.get("volumeMounts", [])}
    for name in sorted(mounted - volumes):
        yield f"there is no volume {name}"
    for name in sorted(volumes - mounted):
        yield f"volume {name} is mounted nowhere"


def _policed(thing: Object, objects: list[Object]) -> Iterator[str]:
    """Complain about a pod that no NetworkPolicy closes in both directions."""
    for direction in ("Ingress", "Egress"):
        if not any(
            policy["kind"] == "NetworkPolicy"
            and direction in policy["spec"].get("policyTypes", [])
            and policy["spec"]["podSelector"]  # one that denies by default opens nothing that it needs
            and thing in _selected(policy["spec"]["podSelector"], objects)
            for policy in objects
        ):
            yield f"no NetworkPolicy closes it for {direction.lower()}"


def _stateful_set(thing: Object, objects: list[Object]) -> Iterator[str]:
    yield from _needs(objects, "Service", thing["spec"].get("serviceName", ""))


def _service(thing: Object, objects: list[Object]) -> Iterator[str]:
    selector = {"matchLabels": thing["spec"].get("selector", {})}
    yield from _selects(selector, objects, "spec.selector")
    names = _port_names(_selected(selector, objects))
    for port in thing["spec"]["ports"]:
        if port.get("targetPort", port["port"]) not in names:
            yield f"targetPort {port.get('targetPort', port['port'])}: no pod has it"


def _disruption_budget(thing: Object, objects: list[Object]) -> Iterator[str]:
    yield from _selects(thing["spec"].get("selector", {}), objects, "spec.selector")


def _autoscaler(thing: Object, objects: list[Object]) -> Iterator[str]:
    reference = thing["spec"]["scaleTargetRef"]
    target = _find(objects, reference["kind"], reference["name"])
    if target is None or target["apiVersion"] != reference.get("apiVersion"):
        yield f"there is no {reference['kind']}/{reference['name']} of {reference.get('apiVersion')}"
        return
    for metric in thing["spec"].get("metrics", []):
        for container in containers_of(pod_of(target) or {}) if metric["type"] == "Resource" else ():
            if metric["resource"]["name"] not in container.get("resources", {}).get("requests", {}):
                yield f"metric {metric['resource']['name']}: {container['name']} does not request it"


def _network_policy(thing: Object, objects: list[Object]) -> Iterator[str]:
    spec = thing["spec"]
    if spec["podSelector"] or spec.get("ingress") or spec.get("egress"):  # else it denies, to every pod
        yield from _selects(spec["podSelector"], objects, "spec.podSelector")
    own = _port_names(_selected(spec["podSelector"], objects))
    for direction, end in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            if not rule.get(end) or not rule.get("ports"):
                yield f"{direction}: a rule without {end} or ports lets everything through"
            for peer in rule.get(end, []):
                yield from _peer(peer, objects)
            for port in rule.get("ports", []):
                if direction == "ingress" and port["port"] not in own:
                    yield f"{direction}: no pod has port {port['port']}"


def _peer(peer: Object, objects: list[Object]) -> Iterator[str]:
    if "namespaceSelector" in peer:
        selector = peer["namespaceSelector"]
        names = [selector["matchLabels"][_NAMESPACE_NAME]] if "matchLabels" in selector else []
        for expression in selector.get("matchExpressions", []):
            names += expression["values"] if expression["key"] == _NAMESPACE_NAME else []
        if not names:
            yield f"namespaceSelector: expected {_NAMESPACE_NAME}"
        for name in names:
            yield from _needs(objects, "Namespace", name)
    elif "podSelector" in peer and not _selected(peer["podSelector"], objects):
        for label, value in peer["podSelector"].get("matchLabels", {}).items():
            yield from _needs(objects, "Pods", f"{label}={value}")


def _ingress(thing: Object, objects: list[Object]) -> Iterator[str]:
    yield from _needs(objects, "IngressClass", thing["spec"].get("ingressClassName", ""))
    for tls in thing["spec"].get("tls", []):
        yield from _needs(objects, "Secret", tls.get("secretName", ""))
    for rule in thing["spec"].get("rules", []):
        for path in rule["http"]["paths"]:
            service = path["backend"]["service"]
            port = service["port"].get("name", service["port"].get("number"))
            yield from _backend(objects, service["name"], port)


def _backend(objects: list[Object], name: str, port: object) -> Iterator[str]:
    service = _find(objects, "Service", name)
    if service is None:
        yield f"there is no Service/{name}"
    elif port not in {entry[key] for entry in service["spec"]["ports"] for key in ("name", "port")}:
        yield f"Service/{name} has no port {port}"


def _http_route(thing: Object, objects: list[Object]) -> Iterator[str]:
    own = thing["metadata"].get("namespace", "default")
    for parent in thing["spec"]["parentRefs"]:
        yield from _needs(objects, "Gateway", f"{parent.get('namespace', own)}/{parent['name']}")
    for rule in thing["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            yield from _backend(objects, backend["name"], backend["port"])


def _service_monitor(thing: Object, objects: list[Object]) -> Iterator[str]:
    wanted = thing["spec"]["selector"]["matchLabels"].items()
    services = [
        other
        for other in objects
        if other["kind"] == "Service" and wanted <= other["metadata"].get("labels", {}).items()
    ]
    if not services:
        yield "spec.selector: selects no Service"
    names = {port["name"] for service in services for port in service["spec"]["ports"]}
    for endpoint in thing["spec"]["endpoints"]:
        if services and endpoint["port"] not in names:
            yield f"no Service of it has a port {endpoint['port']}"


_RULES = {
    "HTTPRoute": _http_route,
    "HorizontalPodAutoscaler": _autoscaler,
    "Ingress": _ingress,
    "NetworkPolicy": _network_policy,
    "PodDisruptionBudget": _disruption_budget,
    "Service": _service,
    "ServiceMonitor": _service_monitor,
    "StatefulSet": _stateful_set,
}
