"""Rules for who reaches whom: apps and operators on a port each, DNS, and the Internet without the inside."""

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from tests.k8s.documents import Object, containers_of, identity, pod_labels, pod_of, title

# Not public, by the IANA's registries of special-purpose addresses, as far as hosts may have them.
_INSIDE_IPV4 = (
    "10.0.0.0/8",
    "100.64.0.0/10",  # carriers' own; also some clouds' pods
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local: the cloud's metadata
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "240.0.0.0/4",
)
_INSIDE_IPV6 = (
    "::1/128",
    "::ffff:0:0/96",  # IPv4-mapped
    "64:ff9b::/96",  # NAT64, the well-known prefix: every IPv4 address
    "64:ff9b:1::/48",  # NAT64, prefixes of one's own
    "2001::/32",  # Teredo
    "2002::/16",  # 6to4
    "fc00::/7",  # unique local: most clusters' pods and Services, the cloud's metadata
    "fe80::/10",  # link-local
)
_NAT64 = int(ip_network("64:ff9b::/96").network_address)

_PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
_FIRSTOPEN = {"app.kubernetes.io/name": "firstopen"}
_OPERATOR = {"app.kubernetes.io/name": "cloudnative-pg"}
_DATABASE = "firstopen-database"
_DATABASE_PORTS = (5432, "postgres")
_NODE_LOCAL_DNS = "169.254.20.10/32"
_DNS_PORT = 53

Network = IPv4Network | IPv6Network


def _through_nat64(network: IPv4Network) -> IPv6Network:
    """Return the IPv6 addresses that NAT64 translates to an IPv4 network (RFC 6052)."""
    return IPv6Network((_NAT64 + int(network.network_address), 96 + network.prefixlen))


_IPV4 = [IPv4Network(text) for text in _INSIDE_IPV4]
INSIDE: list[Network] = [*_IPV4, *map(IPv6Network, _INSIDE_IPV6), *map(_through_nat64, _IPV4)]


def complaints(objects: list[Object]) -> list[str]:
    """Return what is open among some objects that should be closed, and the other way round."""
    found = []
    for thing in objects:
        rule = _RULES.get(thing["kind"])
        found += [f"{title(thing)}: {problem}" for problem in (rule(thing, objects) if rule else ())]
        if identity(thing) == ("Deployment", "firstopen"):
            found += [f"{title(thing)}: {problem}" for problem in _dns(thing, objects)]
        if thing["kind"] in {"Cluster", "StatefulSet"} and thing["metadata"]["name"] == _DATABASE:
            found += [f"{title(thing)}: {problem}" for problem in _database(thing, objects)]
    return found


def _policy(thing: Object, _objects: list[Object]) -> Iterator[str]:
    for rule in thing["spec"].get("ingress", []):
        ports = {port["port"] for port in rule.get("ports", [])}
        scrapers = [_is_prometheus(peer) for peer in rule.get("from", [])]
        if "ops" in ports and not all(scrapers):
            yield "ingress: others than Prometheus reach the port ops"
        if any(scrapers) and ports != {"ops"}:
            yield f"ingress: Prometheus reaches {sorted(map(str, ports))}: expected ops alone"
    for rule in thing["spec"].get("egress", []):
        for peer in rule.get("to", []):
            if "ipBlock" in peer:
                yield from _block(peer["ipBlock"])


def _is_prometheus(peer: Object) -> bool:
    """Say whether a peer is Prometheus's pods, in a namespace that is named."""
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return "namespaceSelector" in peer and labels.items() >= _PROMETHEUS.items()


def _block(block: Object) -> Iterator[str]:
    """Complain about a block that is wider than one inside network and yet includes it."""
    cidr = ip_network(block["cidr"])
    excluded = [ip_network(text) for text in block.get("except", [])]
    for inside in INSIDE:
        is_meant = _within(cidr, inside)
        is_excluded = any(_within(inside, each) for each in excluded)
        if _within(inside, cidr) and not is_meant and not is_excluded:
            yield f"egress: {cidr} includes {inside}"


def _within(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


def _dns(thing: Object, objects: list[Object]) -> Iterator[str]:
    """Complain unless the pods reach DNS, also where each node has a cache of its own."""
    labels = thing["spec"]["template"]["metadata"]["labels"]
    reached = {
        port["protocol"]
        for policy in objects
        if policy["kind"] == "NetworkPolicy"
        and policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        for rule in policy["spec"].get("egress", [])
        if {"ipBlock": {"cidr": _NODE_LOCAL_DNS}} in rule["to"]
        for port in rule["ports"]
        if port["port"] == _DNS_PORT
    }
    for protocol in ("UDP", "TCP"):
        if protocol not in reached:
            yield f"no NetworkPolicy lets it ask NodeLocal DNSCache ({_NODE_LOCAL_DNS}) over {protocol}"


def _database(thing: Object, objects: list[Object]) -> Iterator[str]:
    """Complain unless firstopen reaches the database, and nobody else but its own servers and operator."""
    labels = pod_labels(thing) or {}
    ways_in = _peers("ingress", labels, objects)
    ways_out = _peers("egress", _FIRSTOPEN, objects)
    if {"podSelector": {"matchLabels": _FIRSTOPEN}} not in ways_in:
        yield "ingress: no NetworkPolicy lets firstopen in"
    if not any(_is_pod(peer, labels) for peer in ways_out):
        yield "no NetworkPolicy lets firstopen out to it"
    for peer in ways_in:
        if not any(_is_pod(peer, known) for known in (_FIRSTOPEN, labels)) and not _is_operator(peer):
            yield "ingress: others than firstopen reach it"
    for peer in ways_out:
        if not _is_pod(peer, labels):
            yield "firstopen reaches other databases, too"


def _peers(direction: str, labels: dict[str, str], objects: list[Object]) -> list[Object]:
    """Return whom pods with these labels may exchange PostgreSQL's protocol with, in one direction."""
    end = "from" if direction == "ingress" else "to"
    return [
        peer
        for policy in objects
        if policy["kind"] == "NetworkPolicy"
        and policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
        for rule in policy["spec"].get(direction, [])
        if any(port["port"] in _DATABASE_PORTS for port in rule.get("ports", []))
        for peer in rule.get(end, [])
    ]


def _is_pod(peer: Object, labels: dict[str, str]) -> bool:
    """Say whether a peer is pods with some of these labels, in the same namespace."""
    wanted = peer.get("podSelector", {}).get("matchLabels", {})
    return peer.keys() == {"podSelector"} and bool(wanted) and wanted.items() <= labels.items()


def _is_operator(peer: Object) -> bool:
    """Say whether a peer is CloudNativePG's operator, in a namespace that is named."""
    labels = peer.get("podSelector", {}).get("matchLabels", {})
    return "namespaceSelector" in peer and labels == _OPERATOR


def _namespace(thing: Object, objects: list[Object]) -> Iterator[str]:
    """Complain about a namespace of ours without a policy that closes every pod in it."""
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    if not any(
        policy["kind"] == "NetworkPolicy"
        and policy["metadata"].get("namespace") == thing["metadata"]["name"]
        and policy["spec"] == closed
        for policy in objects
    ):
        yield "no NetworkPolicy denies by default, to every pod in it and in both directions"


def _ingress(thing: Object, objects: list[Object]) -> Iterator[str]:
    for rule in thing["spec"].get("rules", []):
        for path in rule["http"]["paths"]:
            service = path["backend"]["service"]
            port = service["port"].get("name", service["port"].get("number"))
            yield from _public(objects, service["name"], port)


def _http_route(thing: Object, objects: list[Object]) -> Iterator[str]:
    for rule in thing["spec"]["rules"]:
        for backend in rule["backendRefs"]:
            yield from _public(objects, backend["name"], backend["port"])


def _public(objects: list[Object], service: str, port: object) -> Iterator[str]:
    if "ops" in _target_ports(objects, service, port):
        yield f"exposes the port {port} of Service/{service}, which is for Prometheus alone"


def _service_monitor(thing: Object, objects: list[Object]) -> Iterator[str]:
    wanted = thing["spec"]["selector"]["matchLabels"].items()
    for service in objects:
        if service["kind"] == "Service" and wanted <= service["metadata"].get("labels", {}).items():
            for endpoint in thing["spec"]["endpoints"]:
                if _target_ports(objects, service["metadata"]["name"], endpoint["port"]) - {"ops"}:
                    yield f"scrapes the port {endpoint['port']}, which has no metrics: expected ops"


def _target_ports(objects: list[Object], service: str, port: object) -> set[str]:
    """Return the names of the containers' ports that a Service's port, by name or number, leads to."""
    found: set[str] = set()
    for thing in objects:
        if identity(thing) != ("Service", service):
            continue
        targets = {
            each.get("targetPort", each["port"])
            for each in thing["spec"]["ports"]
            if port in (each.get("name"), each["port"])
        }
        selected = thing["spec"].get("selector", {}).items()
        for workload in objects:
            pod = pod_of(workload)
            if pod and selected <= workload["spec"]["template"]["metadata"].get("labels", {}).items():
                ports = [each for box in containers_of(pod) for each in box.get("ports", [])]
                found |= {each["name"] for each in ports if targets & {each["name"], each["containerPort"]}}
    return found


_RULES = {
    "HTTPRoute": _http_route,
    "Ingress": _ingress,
    "Namespace": _namespace,
    "NetworkPolicy": _policy,
    "ServiceMonitor": _service_monitor,
}
