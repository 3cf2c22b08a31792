"""What may be rendered from k8s/, and everything that must hold of it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.k8s import metrics, network, pods, product, references, schemas
from tests.k8s.documents import Object

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"


def complaints(objects: list[Object], *, overlay: bool = True) -> list[str]:
    """Return all that is wrong with a rendering; what the schemas refuse is not looked at further."""
    found = [problem for thing in objects for problem in schemas.complaints(thing)]
    return found or broken_rules(objects, overlay=overlay)


def broken_rules(objects: list[Object], *, overlay: bool = True) -> list[str]:
    """Return what is wrong with objects that the schemas accept."""
    return [
        *pods.complaints(objects),
        *references.complaints(objects),
        *network.complaints(objects),
        *product.complaints(objects, overlay=overlay),
        *metrics.complaints(objects),
    ]


def overlays(k8s: Path = K8S) -> list[Path]:
    """Return the folders of all overlays."""
    return sorted(path.parent for path in k8s.glob("overlays/*/kustomization.yaml"))


@contextlib.contextmanager
def parts(k8s: Path = K8S) -> Iterator[dict[str, Path]]:
    """Return, by name, the base alone and the base with each component, so that no part goes unlooked at."""
    components = sorted(path.parent for path in k8s.glob("components/*/kustomization.yaml"))
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"base": k8s / "base"}
        for component in components:
            folder = Path(scratch).resolve() / component.name
            folder.mkdir()
            (folder / "kustomization.yaml").write_text(
                "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
                f"resources:\n- {os.path.relpath(k8s / 'base', folder)}\n"
                f"components:\n- {os.path.relpath(component, folder)}\n",
                encoding="utf-8",
            )
            folders[f"base + {component.name}"] = folder
        yield folders
