"""YAML as every reader takes it: what YAML 1.1 and 1.2 read differently, or silently, is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

CLUSTER_LABEL = "cnpg.io/cluster"
CLUSTER_PORTS = {"postgresql": 5432, "metrics": 9187, "status": 8000}


class Refused(Exception):
    """Something that we will not guess about; the message says where it is and what is expected."""


class _Loader(yaml.SafeLoader):
    """JSON's scalars only, no key twice, no merge keys."""


_SCALARS = [
    ("tag:yaml.org,2002:bool", re.compile(r"true|false"), "tf"),
    ("tag:yaml.org,2002:null", re.compile(r"null|~|"), ["n", "~", ""]),
    ("tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]*)"), "-0123456789"),
    ("tag:yaml.org,2002:float", re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+"), "-0123456789"),
]
_Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in _SCALARS:
    _Loader.add_implicit_resolver(tag, re.compile(f"^(?:{pattern.pattern})$"), list(first))
_STRING = "tag:yaml.org,2002:str"
_ELSEWHERE = yaml.SafeLoader("")  # how YAML 1.1 would take a plain scalar


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> str:
    plain = node.style is None and isinstance(node, yaml.ScalarNode)
    if plain and _ELSEWHERE.resolve(yaml.ScalarNode, node.value, (True, False)) != _STRING:  # type: ignore[no-untyped-call]
        raise Refused(f"{_where(node)}: {node.value!r} is read differently by different parsers: quote it")
    return str(loader.construct_scalar(node))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Object:
    seen: Object = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise Refused(f"{_where(key_node)}: expected a string as a key, got {key!r}")
        if key in seen:
            raise Refused(f"{_where(key_node)}: {key!r} is there twice")
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(_STRING, _scalar)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _where(node: yaml.Node) -> str:
    return f"{node.start_mark.name}:{node.start_mark.line + 1}"


def parse(text: str, name: str) -> list[Object]:
    """Return the mappings of a YAML stream; raises ``Refused``."""
    return list(_documents(text, name))


def read(path: Path) -> list[Object]:
    """Return the mappings of a YAML file; raises ``Refused``."""
    if not path.is_file():
        raise Refused(f"{path}: no such file")
    return parse(path.read_text(encoding="utf-8"), str(path))


def _documents(text: str, name: str) -> Iterator[Object]:
    loader = _Loader(text)
    loader.name = name
    try:
        while loader.check_data():  # type: ignore[no-untyped-call]
            document = loader.get_data()
            if not isinstance(document, dict):
                raise Refused(f"{name}: expected a mapping, got {document!r}")
            yield document
    except yaml.YAMLError as exc:
        raise Refused(f"{name}: not YAML: {exc}") from exc
    finally:
        loader.dispose()


def identity(thing: Object) -> tuple[str, str]:
    """Return an object's kind and name."""
    return str(thing.get("kind")), str(thing.get("metadata", {}).get("name"))


def title(thing: Object) -> str:
    """Return an object's kind and name as people write them."""
    return "/".join(identity(thing))


def pod_of(thing: Object) -> Object | None:
    """Return the pod spec of a workload, or None."""
    if thing.get("kind") in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
        return thing["spec"]["template"]["spec"]  # type: ignore[no-any-return]
    return None


def pod_labels(thing: Object) -> dict[str, str] | None:
    """Return the labels of an object's pods, or None if it has none. CloudNativePG's Clusters have pods."""
    if thing.get("kind") == "Cluster":
        return {CLUSTER_LABEL: thing["metadata"]["name"]}
    if pod_of(thing) is None:
        return None
    return thing["spec"]["template"]["metadata"].get("labels", {})  # type: ignore[no-any-return]


def containers_of(pod: Object) -> list[Object]:
    """Return all containers of a pod spec, init containers first."""
    return [*pod.get("initContainers", []), *pod.get("containers", [])]
