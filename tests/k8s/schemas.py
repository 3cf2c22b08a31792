"""Kubernetes' own schemas, strict and offline; for custom resources, small strict ones of ours."""

import json
from functools import lru_cache
from pathlib import Path

import jsonschema
from kubernetes_validate.utils import SchemaNotFoundError, ValidationError, validate

from tests.k8s.documents import Object, title

# The oldest that has the `sleep` lifecycle handler on by default, and the newest that we have a schema of.
VERSIONS = ("1.30", "1.37")

_OURS = {
    "gateway.networking.k8s.io/v1 HTTPRoute": "httproute.json",
    "monitoring.coreos.com/v1 PrometheusRule": "prometheusrule.json",
    "monitoring.coreos.com/v1 ServiceMonitor": "servicemonitor.json",
    "postgresql.cnpg.io/v1 Cluster": "cluster.json",
}


def complaints(thing: Object) -> list[str]:
    """Return what its schema has against an object."""
    return [f"{title(thing)}: {problem}" for problem in _problems(json.dumps(thing))]


@lru_cache(maxsize=1000)
def _problems(text: str) -> tuple[str, ...]:
    thing = json.loads(text)
    ours = _OURS.get(f"{thing.get('apiVersion')} {thing.get('kind')}")
    if ours:
        return tuple(_described(error) for error in _validator(ours).iter_errors(thing))
    found = {_against(thing, version): version for version in reversed(VERSIONS)}
    return tuple(f"{problem} (Kubernetes {version})" for problem, version in found.items() if problem)


def _against(thing: Object, version: str) -> str:
    try:
        validate(thing, version, strict=True)
    except ValidationError as exc:
        return _described(exc)
    except SchemaNotFoundError as exc:
        return str(exc.message)
    return ""


def _described(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(map(str, error.absolute_path)) or 'the object'}: {error.message}"


@lru_cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((Path(__file__).parent / "schemas" / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
