"""Rules that only firstopen has: its file boots, a stop has time to end, nothing inside is exposed."""

from collections.abc import Iterator

from service.settings import Settings, SettingsError, parse
from tests.k8s.documents import Object, identity, pod_of, title

EXPOSED = {("/v1", "Prefix"), ("/track", "Prefix"), ("/events", "Exact")}
# What firstopen reads from the environment (README, Configuration); the rest a firstopen.toml names.
VARIABLES = {
    "DUB_BASE_URL",
    "FIRSTOPEN_BUDGET_MS",
    "FIRSTOPEN_CONFIG",
    "FIRSTOPEN_DATA_DIR",
    "FIRSTOPEN_FORWARDED_ALLOW_IPS",
    "FIRSTOPEN_HOST",
    "FIRSTOPEN_LOG_LEVEL",
    "FIRSTOPEN_OPS_PORT",
    "FIRSTOPEN_PORT",
    "FIRSTOPEN_SECRET",
    "FIRSTOPEN_VALKEY_URL",
}
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
        if thing["kind"] == "Namespace":
            found += [f"{title(thing)}: {problem}" for problem in _namespace(thing)]
    return found


def _namespace(thing: Object) -> Iterator[str]:
    if thing["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "does not enforce the restricted Pod Security standard"


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
        opentelemetrys = {name for name in names if name.startswith("OTEL_")}
        for name in sorted(set(names) - VARIABLES - named - opentelemetrys):
            yield f"env: nothing reads {name}"
    yield from _writable(container, pod, values)


_ENV_SETTINGS = ("server_keys_env", "dub_api_key_env")


def _secret(name: str) -> str:
    """Stand in for a value that only the Secret has."""
    return "redis://valkey:6379/0" if name == "FIRSTOPEN_VALKEY_URL" else f"{name}-".ljust(40, "x")


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
    for path in (values.get("FIRSTOPEN_DATA_DIR", ""), "/tmp"):
        if path not in writable:
            yield f"nothing writable is mounted at {path!r}"
