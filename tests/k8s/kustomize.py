"""Renders the part of kustomize that k8s/ uses, and refuses every field that it does not know.

In a cluster, kustomize itself renders. This exists so that ``make test`` needs nothing but Python: it is
held against what kustomize made of fixtures/ (recorded), and by ``make k8s`` against a kustomize or
kubectl where one is installed. It refuses rather than guesses, so the two cannot part in silence.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.k8s.documents import Object, Refused, containers_of, identity, parse, pod_of, read, title

_CLUSTER_WIDE = {"Namespace"}
_NAMESPACED = {
    "Cluster",
    "ConfigMap",
    "Deployment",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "Ingress",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PrometheusRule",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "StatefulSet",
}
# Lists that a patch merges entry by entry, and the key that tells entries apart. A list of mappings
# that is in neither table is refused.
_MERGED = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
_REPLACED = {"ingress", "egress", "metrics", "rules", "tls", "parentRefs"}
_HASH_ALPHABET = str.maketrans("013ae", "ghkmt")
_HASH_LENGTH = 10


class _Fields:
    """A mapping whose every field must be taken; what is left over is refused."""

    def __init__(self, fields: Object, where: str) -> None:
        self._left, self.where = dict(fields), where

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        value = self._left.pop(name, default)
        if value is not default and not isinstance(value, kind):
            raise Refused(f"{self.where}: {name}: expected a {kind.__name__}, got {value!r}")
        return value

    def need(self, name: str, kind: type) -> Any:
        value = self.take(name, kind)
        if value is None:
            raise Refused(f"{self.where}: expected {name}")
        return value

    def done(self) -> None:
        if self._left:
            raise Refused(f"{self.where}: this renderer does not know {', '.join(sorted(self._left))}")


def render(folder: Path) -> list[Object]:
    """Render an overlay (or the base) to objects; raises ``Refused``."""
    objects, hashed = _build(folder)
    _name_by_content(objects, hashed)
    return objects


def _build(folder: Path) -> tuple[list[Object], list[Object]]:
    objects: list[Object] = []
    hashed: list[Object] = []
    _apply(folder, objects, hashed, "Kustomization")
    return objects, hashed


def _apply(folder: Path, objects: list[Object], hashed: list[Object], kind: str) -> None:
    """Apply one kustomization.yaml to what has been gathered, in kustomize's own order."""
    path = folder / "kustomization.yaml"
    documents = read(path)
    if len(documents) != 1:
        raise Refused(f"{path}: expected one document")
    fields = _Fields(documents[0], str(path))
    version = "v1alpha1" if kind == "Component" else "v1beta1"
    _expect(fields, "apiVersion", f"kustomize.config.k8s.io/{version}")
    _expect(fields, "kind", kind)
    for entry in fields.take("resources", list, []):
        for thing in _resources(folder, entry, hashed):
            _add(objects, thing, str(path))
    for entry in fields.take("components", list, []):
        _apply(_inside(folder, entry), objects, hashed, "Component")
    for entry in fields.take("configMapGenerator", list, []):
        _generate(_Fields(entry, f"{path}: configMapGenerator"), folder, objects, hashed)
    for entry in fields.take("patches", list, []):
        _patch(_Fields(entry, f"{path}: patches"), folder, objects)
    hashed[:] = [config_map for config_map in hashed if any(config_map is thing for thing in objects)]
    _put_in_namespace(objects, fields.take("namespace", str), str(path))
    for entry in fields.take("labels", list, []):
        _label(_Fields(entry, f"{path}: labels"), objects)
    for entry in fields.take("replicas", list, []):
        _scale(_Fields(entry, f"{path}: replicas"), objects)
    for entry in fields.take("images", list, []):
        _set_image(_Fields(entry, f"{path}: images"), objects)
    fields.done()


def _expect(fields: _Fields, name: str, expected: str) -> None:
    if fields.need(name, str) != expected:
        raise Refused(f"{fields.where}: {name}: expected {expected}")


def _inside(folder: Path, entry: object) -> Path:
    if not isinstance(entry, str) or "://" in entry or entry.startswith("/") or "?" in entry:
        raise Refused(f"{folder}: expected a relative path, got {entry!r}")
    return (folder / entry).resolve()


def _resources(folder: Path, entry: object, hashed: list[Object]) -> list[Object]:
    path = _inside(folder, entry)
    if path.is_dir():
        objects, more = _build(path)
        hashed += more
        return objects
    return read(path)


def _add(objects: list[Object], thing: Object, where: str) -> None:
    kind, name = identity(thing)
    if kind not in _CLUSTER_WIDE | _NAMESPACED:
        raise Refused(f"{where}: this renderer does not know whether a {kind} has a namespace")
    if any(identity(other) == (kind, name) for other in objects):
        raise Refused(f"{where}: {kind}/{name} is there twice")
    objects.append(thing)


def _generate(fields: _Fields, folder: Path, objects: list[Object], hashed: list[Object]) -> None:
    name = fields.need("name", str)
    behavior = fields.take("behavior", str, "create")
    data: dict[str, str] = {}
    for entry in fields.take("files", list, []):
        key, _, file = str(entry).rpartition("=")
        path = _inside(folder, file)
        if not path.is_file():
            raise Refused(f"{fields.where}: {path}: no such file")
        data[key or path.name] = path.read_text(encoding="utf-8")
    for entry in fields.take("literals", list, []):
        key, _, value = str(entry).partition("=")
        data[key] = value
    options = _Fields(fields.take("options", dict, {}), f"{fields.where}: options")
    fields.done()
    labels = options.take("labels", dict)
    plain = options.take("disableNameSuffixHash", bool, default=False)
    options.done()
    if behavior == "replace":
        if options_given := (labels or plain):
            raise Refused(f"{fields.where}: options of a replacement are not known here: {options_given}")
        _one(objects, "ConfigMap", name, fields.where)["data"] = data
        return
    if behavior != "create":
        raise Refused(f"{fields.where}: behavior: expected create or replace, got {behavior}")
    config_map: Object = {"apiVersion": "v1", "data": data, "kind": "ConfigMap", "metadata": {"name": name}}
    if labels:
        config_map["metadata"]["labels"] = labels
    _add(objects, config_map, fields.where)
    if not plain:
        hashed.append(config_map)


def _one(objects: list[Object], kind: str, name: str, where: str) -> Object:
    for thing in objects:
        if identity(thing) == (kind, name):
            return thing
    raise Refused(f"{where}: there is no {kind}/{name}")


def _patch(fields: _Fields, folder: Path, objects: list[Object]) -> None:
    path, text = fields.take("path", str), fields.take("patch", str)
    fields.done()
    if (path is None) == (text is None):
        raise Refused(f"{fields.where}: expected path or patch")
    patches = read(_inside(folder, path)) if path else parse(text, fields.where)
    for patch in patches:
        directive = patch.pop("$patch", None)
        target = _one(objects, *identity(patch), fields.where)
        if target["apiVersion"] != patch["apiVersion"]:
            raise Refused(f"{fields.where}: {title(patch)} is {target['apiVersion']}")
        if directive == "delete":
            objects[:] = [thing for thing in objects if thing is not target]
        elif directive is not None:
            raise Refused(f"{fields.where}: $patch: expected delete, got {directive!r}")
        else:
            _merge(target, patch, fields.where)


def _merge(into: Object, patch: Object, where: str) -> None:
    """Merge a patch into a mapping as kustomize does: null removes, and lists by the tables above."""
    for key, value in patch.items():
        here = f"{where}.{key}"
        if key.startswith("$"):
            raise Refused(f"{here}: this renderer does not know that directive")
        old = into.get(key)
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value, here)
        elif old is None:
            into[key] = _whole(value, here)
        elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
            into[key] = _merge_list(old, value, key, here)
        else:
            into[key] = _whole(value, here)


def _merge_list(old: list[Object], patch: list[Object], key: str, where: str) -> list[Object]:
    """Merge a list: the patch's entries first, in its order, then those that it does not name."""
    if key in _REPLACED:
        return [_whole(entry, where) for entry in patch]
    if key not in _MERGED:
        raise Refused(f"{where}: this renderer does not know how to patch that list")
    by = _MERGED[key]
    named = {entry[by]: entry for entry in old}
    merged = []
    for entry in patch:
        target = named.pop(entry[by], None)
        if target is None:
            target = _whole(entry, f"{where}[{entry[by]}]")
        else:
            _merge(target, entry, f"{where}[{entry[by]}]")
        merged.append(target)
    return [*merged, *named.values()]


def _whole(value: Any, where: str) -> Any:
    """Return a copy of what a patch adds; it must be plain, as there is nothing to remove or replace."""
    if isinstance(value, dict):
        if any(key.startswith("$") or entry is None for key, entry in value.items()):
            raise Refused(f"{where}: this renderer does not know a directive or null in what is added")
        return {key: _whole(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list):
        return [_whole(entry, where) for entry in value]
    return value


def _put_in_namespace(objects: list[Object], namespace: str | None, where: str) -> None:
    for thing in objects if namespace else ():
        if thing["kind"] not in _CLUSTER_WIDE:
            thing["metadata"]["namespace"] = namespace
        elif thing["metadata"]["name"] != namespace:
            raise Refused(f"{where}: {title(thing)}: expected the overlay's own namespace, {namespace}")


def _label(fields: _Fields, objects: list[Object]) -> None:
    pairs = fields.need("pairs", dict)
    fields.done()
    for thing in objects:
        thing["metadata"].setdefault("labels", {}).update(pairs)


def _scale(fields: _Fields, objects: list[Object]) -> None:
    name, count = fields.need("name", str), fields.need("count", int)
    fields.done()
    workloads = [thing for thing in objects if pod_of(thing) and thing["metadata"]["name"] == name]
    if not workloads:
        raise Refused(f"{fields.where}: there is no workload {name}")
    for thing in workloads:
        thing["spec"]["replicas"] = count


def _set_image(fields: _Fields, objects: list[Object]) -> None:
    name = fields.need("name", str)
    new_name = fields.take("newName", str, name)
    tag, digest = fields.take("newTag", str), fields.take("digest", str)
    fields.done()
    if (tag is None) == (digest is None):
        raise Refused(f"{fields.where}: expected newTag or digest")
    for container in _containers(objects):
        if container["image"].partition("@")[0].partition(":")[0] == name:
            container["image"] = f"{new_name}@{digest}" if digest else f"{new_name}:{tag}"


def _containers(objects: list[Object]) -> Iterator[Object]:
    for thing in objects:
        yield from containers_of(pod_of(thing) or {})


def _name_by_content(objects: list[Object], hashed: list[Object]) -> None:
    """Give generated ConfigMaps the name that ends in their hash, wherever it is referred to."""
    names: dict[str, str] = {}
    for config_map in hashed:
        name = config_map["metadata"]["name"]
        names[name] = config_map["metadata"]["name"] = f"{name}-{_hash(config_map)}"

    def rename(reference: Object) -> None:
        reference["name"] = names.get(reference["name"], reference["name"])

    for thing in objects:
        each_config_map_reference(pod_of(thing) or {}, rename)


def each_config_map_reference(pod: Object, do: Callable[[Object], None]) -> None:
    """Call with every mapping of a pod spec whose ``name`` is a ConfigMap's."""
    for volume in pod.get("volumes", []):
        sources = [volume, *volume.get("projected", {}).get("sources", [])]
        for source in sources:
            if "configMap" in source:
                do(source["configMap"])
    for container in containers_of(pod):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                do(source["configMapRef"])
        for variable in container.get("env", []):
            if "configMapKeyRef" in variable.get("valueFrom", {}):
                do(variable["valueFrom"]["configMapKeyRef"])


def _hash(config_map: Object) -> str:
    content = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}  # kustomize leaves the name out
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":  # as Go's encoder writes them
        text = text.replace(character, f"\\u{ord(character):04x}")
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH].translate(_HASH_ALPHABET)
