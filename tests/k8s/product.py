"""Rules that only firstopen has: its file boots, a stop has time to end, nothing inside is exposed."""

import math
import re
from collections.abc import Iterator

from service.config.settings import Settings, SettingsError, parse
from service.storage.engines.postgres import CONNECTIONS
from tests.k8s.documents import Object, identity, pod_of, title

EXPOSED = {("/v1", "Prefix"), ("/track", "Prefix"), ("/events", "Exact")}
# What firstopen reads from the environment (docs/configuration.md); the rest a firstopen.toml names.
VARIABLES = {
    "DUB_BASE_URL",
    "FIRSTOPEN_BUDGET_MS",
    "FIRSTOPEN_CONFIG",
    "FIRSTOPEN_DATABASE_URL",
    "FIRSTOPEN_DATA_DIR",
    "FIRSTOPEN_FORWARDED_ALLOW_IPS",
    "FIRSTOPEN_HOST",
    "FIRSTOPEN_LOG_LEVEL",
    "FIRSTOPEN_OPS_PORT",
    "FIRSTOPEN_PORT",
    "FIRSTOPEN_SECRET",
}
_OTHERS_PREFIXES = ("OTEL_", "PG")  # OpenTelemetry's variables, and libpq's
_SURGE = 0.25  # the Deployment's maxSurge
_RESERVED = 10  # for administrators and the operator
_WRITABLE = {"emptyDir", "persistentVolumeClaim", "ephemeral"}


def complaints(objects: list[Object], *, overlay: bool) -> list[str]:
    """Return what firstopen has against some objects; an overlay is what is applied again and again."""
    found = []
    for thing in objects:
        if identity(thing) == ("Deployment", "firstopen"):
            found += [f"{title(thing)}: {problem}" for problem in _deployment(thing, objects)]
        if thing["kind"] in {"Ingress", "HTTPRoute"}:
            found += [f"{title(thing)}: {problem}" for problem in _exposure(thing)]
        if thing["kind"] == "HorizontalPodAutoscaler" and overlay:
            found += [f"{title(thing)}: {problem}" for problem in _ownership(thing, objects)]
        if thing["kind"] == "Secret":
            found.append(f"{title(thing)}: is made by command, and never in a file")
        if thing["kind"] in {"Cluster", "StatefulSet"}:
            found += [f"{title(thing)}: {problem}" for problem in _connections(thing, objects)]
        if thing["kind"] == "Namespace":
            found += [f"{title(thing)}: {problem}" for problem in _namespace(thing)]
    return found


def _namespace(thing: Object) -> Iterator[str]:
    if thing["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "does not enforce the restricted Pod Security standard"


def _connections(thing: Object, objects: list[Object]) -> Iterator[str]:
    """Complain about a database that has too few connections for all replicas and a rolling update's."""
    if thing["kind"] == "Cluster":
        stated = thing["spec"].get("postgresql", {}).get("parameters", {}).get("max_connections", "100")
    else:
        arguments = " ".join(
            each for box in (pod_of(thing) or {})["containers"] for each in box.get("args", [])
        )
        found = re.search(r"max_connections=(\d+)", arguments)
        stated = found[1] if found else "100"
    replicas = max(
        [each["spec"]["maxReplicas"] for each in objects if each["kind"] == "HorizontalPodAutoscaler"]
        or [each["spec"].get("replicas", 1) for each in objects if each["kind"] == "Deployment"]
    )
    surge = math.ceil(replicas * _SURGE)
    needed = (replicas + surge) * CONNECTIONS + _RESERVED
    if int(stated) < needed:
        yield f"max_connections: expected {needed} at least, for {replicas} replicas and {surge} more"


def _ownership(autoscaler: Object, objects: list[Object]) -> Iterator[str]:
    reference = autoscaler["spec"]["scaleTargetRef"]
    for thing in objects:
        if identity(thing) == (reference["kind"], reference["name"]) and "replicas" in thing["spec"]:
            yield f"{title(thing)} states replicas: every apply would undo what the autoscaler did"


def _exposure(thing: Object) -> Iterator[str]:
    for rule in thing["spec"].get("rules", []):
        if thing["kind"] == "Ingress":
            paths = {(path["path"], path["pathType"]) for path in rule["http"]["paths"]}
        else:
            matches = [match["path"] for match in rule["matches"]]
            paths = {(path["value"], path["type"].removeprefix("Path")) for path in matches}
        if paths != EXPOSED:
            yield f"exposes {sorted(paths)}: expected {sorted(EXPOSED)}"
    if "defaultBackend" in thing["spec"]:
        yield "defaultBackend: exposes everything"


def _deployment(thing: Object, objects: list[Object]) -> Iterator[str]:
    pod = pod_of(thing) or {}
    container = next((each for each in pod["containers"] if each["name"] == "firstopen"), None)
    if container is None:
        yield "no container firstopen"
        return
    if thing["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
        yield "strategy: expected a rolling update with maxUnavailable 0"
    names = [variable["name"] for variable in container.get("env", [])]
    values = {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
    settings = None
    try:
        text = _config(container, pod, objects, values.get("FIRSTOPEN_CONFIG", ""))
        settings = parse(text, {name: value or _secret(name) for name, value in values.items()})
    except (LookupError, SettingsError) as exc:
        yield f"firstopen.toml: {exc}"
    if settings:
        yield from _settings(settings, container, pod)
        named = {getattr(app, key) for app in settings.apps.values() for key in _ENV_SETTINGS}
        for name in sorted(set(names) - VARIABLES - named):
            if not name.startswith(_OTHERS_PREFIXES):
                yield f"env: nothing reads {name}"
    yield from _writable(container, pod, values)


_ENV_SETTINGS = ("server_keys_env", "dub_api_key_env")


def _secret(name: str) -> str:
    """Stand in for a value that only the Secret has."""
    return f"{name}-".ljust(40, "x")


def _config(container: Object, pod: Object, objects: list[Object], path: str) -> str:
    """Return the text that the container finds at its FIRSTOPEN_CONFIG; raises ``LookupError``."""
    folder, _, file = path.rpartition("/")
    mounted = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    try:
        name = volumes[mounted[folder]]["configMap"]["name"]
        config_maps = [thing for thing in objects if identity(thing) == ("ConfigMap", name)]
        return str(config_maps[0]["data"][file])
    except LookupError as exc:
        raise LookupError(f"FIRSTOPEN_CONFIG: nothing is at {path!r}") from exc


def _settings(settings: Settings, container: Object, pod: Object) -> Iterator[str]:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if settings.port != ports.get("http"):
        yield f"env: FIRSTOPEN_PORT {settings.port} is not the container's port http"
    if settings.ops_port is None or settings.ops_port != ports.get("ops"):
        yield f"env: FIRSTOPEN_OPS_PORT {settings.ops_port} is not the container's port ops"
    if settings.host != "::":
        yield "env: FIRSTOPEN_HOST: expected ::, every address, of an IPv6-only cluster too"
    pre_stop_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if not pre_stop_s:
        yield "no preStop: requests would still arrive after SIGTERM"
    server = settings.server  # stop_ms twice: requests in flight, then opens under way to Dub
    needed_s = pre_stop_s + (server.drain_ms + 2 * server.stop_ms) / 1000
    if pod.get("terminationGracePeriodSeconds", 30) < needed_s:
        yield f"terminationGracePeriodSeconds: expected {needed_s:g} at least"


def _writable(container: Object, pod: Object, values: dict[str, str]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    writable = {
        mount["mountPath"]
        for mount in container.get("volumeMounts", [])
        if not mount.get("readOnly") and volumes.get(mount["name"], {}).keys() & _WRITABLE
    }
    if "FIRSTOPEN_DATABASE_URL" not in values:
        yield "env: no FIRSTOPEN_DATABASE_URL: replicas would share nothing"
    if "/tmp" not in writable:
        yield "nothing writable is mounted at '/tmp'"
