"""``make k8s``: render every overlay, validate it offline, and compare with a real kustomize if there is one.

    python -m tests.k8s            everything in k8s/
    python -m tests.k8s FOLDER...  only these overlays

Ends with 1 if anything is wrong.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.k8s import chart, check, kustomize, schemas
from tests.k8s.documents import Object, Refused, identity, parse

_KUSTOMIZE_S = 60


def main(arguments: list[str], *, renderer: list[str]) -> int:
    """Render and check; return the exit status. ``renderer`` is a command to compare with, or nothing."""
    wrong = 0
    if arguments:
        wrong += sum(_checked(Path(folder).as_posix(), Path(folder), renderer) for folder in arguments)
    else:
        for folder in check.overlays():
            wrong += _checked(folder.relative_to(check.ROOT).as_posix(), folder, renderer)
        with check.parts() as folders:
            for name, folder in folders.items():
                wrong += _checked(name, folder, renderer, overlay=False)
        wrong += _chart_checked()
    _say(f"schemas: Kubernetes {' and '.join(schemas.VERSIONS)}, strict; ours for custom resources")
    if renderer:
        _say(f"rendered by tests/k8s/kustomize.py, and compared with {' '.join(renderer)}")
    else:
        _say("rendered by tests/k8s/kustomize.py alone: no kustomize or kubectl here to compare with")
    return 1 if wrong else 0


def _checked(name: str, folder: Path, renderer: list[str], *, overlay: bool = True) -> bool:
    """Check one rendering and say how it went; return whether something is wrong."""
    try:
        objects = kustomize.render(folder)
        problems = check.complaints(objects, overlay=overlay)
        problems += _differences(objects, folder, renderer) if renderer else []
    except Refused as exc:
        objects, problems = [], [str(exc)]
    _say(f"{'REFUSED' if problems else 'valid':8} {name:28} {len(objects):3} objects")
    for problem in problems:
        _say(f"  {problem}")
    return bool(problems)


def _chart_checked() -> int:
    """Compare the Helm chart with the kustomization; return how many pairs differ."""
    helm = chart.installed_helm()
    if helm is None:
        _say("the chart was not rendered: no helm here (on PATH, or from PyPI: tests/k8s/helm.lock)")
        return 0
    found = chart.differences(helm)
    for name, problems in found.items():
        _say(f"{'DIFFERS' if problems else 'valid':8} {f'chart = {name}':28}")
        for problem in problems:
            _say(f"  {problem}")
    return sum(map(bool, found.values()))


def installed_kustomize() -> list[str]:
    """Return the command that renders a folder with kustomize itself, if there is one."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    return ["kubectl", "kustomize"] if shutil.which("kubectl") else []


def _differences(objects: list[Object], folder: Path, renderer: list[str]) -> list[str]:
    """Return what a real kustomize renders differently. It needs, and is given, no cluster."""
    done = subprocess.run(
        [*renderer, str(folder)],
        capture_output=True,
        text=True,
        timeout=_KUSTOMIZE_S,
        check=False,
        env={**os.environ, "KUBECONFIG": os.devnull},
    )
    if done.returncode:
        return [f"{' '.join(renderer)}: {done.stderr.strip()[-500:]}"]
    theirs = {identity(thing): thing for thing in parse(done.stdout, renderer[0])}
    ours = {identity(thing): thing for thing in objects}
    return [
        f"{'/'.join(key)}: {Path(renderer[0]).name} renders it differently"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], renderer=installed_kustomize()))
