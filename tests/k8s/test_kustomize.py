"""Our renderer makes what kustomize makes, and refuses what it does not know."""

import shutil
from pathlib import Path

import pytest

from tests.k8s import kustomize
from tests.k8s.documents import Object, Refused, identity, parse, read

FIXTURES = Path(__file__).parent / "fixtures"


def by_identity(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {identity(thing): thing for thing in objects}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES, tmp_path / "k"))


def test_it_renders_what_kustomize_rendered() -> None:
    """Every feature we know gives, down to the order in lists and the hash in names, what kustomize gave."""
    ours = by_identity(kustomize.render(FIXTURES / "overlay"))
    theirs = by_identity(read(FIXTURES / "rendered.yaml"))
    assert ours == theirs
    assert len(theirs) == 7


@pytest.mark.parametrize(
    ("file", "old", "new", "refusal"),
    [
        ("overlay/kustomization.yaml", "namespace: dev", "namePrefix: x-", "does not know namePrefix"),
        ("overlay/kustomization.yaml", "namespace: dev", "helmCharts: []", "does not know helmCharts"),
        ("overlay/kustomization.yaml", "namespace: dev", "namespace: other", "own namespace, other"),
        ("overlay/kustomization.yaml", "count: 1", "count: one", "count: expected a int"),
        ("overlay/kustomization.yaml", "name: d, count", "name: e, count", "no workload e"),
        ("overlay/kustomization.yaml", "behavior: replace", "behavior: merge", "expected create or replace"),
        ("overlay/kustomization.yaml", "- name: cfg", "- name: other", "no ConfigMap/other"),
        ("overlay/kustomization.yaml", ', newTag: "2"', "", "expected newTag or digest"),
        ("overlay/kustomization.yaml", 'newTag: "2"', 'newTag: "2", x: "1"', "does not know x"),
        ("overlay/kustomization.yaml", "[../base, ns", "[../base, ../base, ns", "is there twice"),
        ("overlay/kustomization.yaml", "../base,", "https://a.example/base,", "expected a relative path"),
        ("overlay/kustomization.yaml", "../base,", "../none,", "no such file"),
        ("overlay/kustomization.yaml", "Kustomization", "Component", "kind: expected Kustomization"),
        (
            "component/kustomization.yaml",
            "volumes: [{name: t,",
            "tolerations: [{key: t,",
            "to patch that list",
        ),
        ("overlay/del.yaml", "$patch: delete", "$patch: replace", "expected delete"),
        ("overlay/del.yaml", "autoscaling/v2", "autoscaling/v1", "is autoscaling/v2"),
        ("overlay/del.yaml", "name: d", "name: e", "no HorizontalPodAutoscaler/e"),
        ("overlay/ns.yaml", "kind: Namespace", "kind: Widget", "whether a Widget has a namespace"),
        ("component/kustomization.yaml", "args: [z]", "$retainKeys: [args]", "does not know that directive"),
        ("component/kustomization.yaml", "emptyDir: {}", "emptyDir: null", "a directive or null"),
        ("base/kustomization.yaml", "x: ", "x: y, x: ", "is there twice"),
        ("base/kustomization.yaml", "resources:", "  includeSelectors: true\nresources:", "includeSelectors"),
    ],
)
def test_it_refuses_what_it_does_not_know(tree: Path, file: str, old: str, new: str, refusal: str) -> None:
    """A field, directive, list or kind outside the subset is refused by name; it is never passed over."""
    path = tree / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(Refused, match=refusal):
        kustomize.render(tree / "overlay")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("a: 1\na: 2", "'a' is there twice"),
        ("a: yes", "'yes' is read differently"),
        ("a: on", "'on' is read differently"),
        ("mode: 0644", "'0644' is read differently"),
        ("at: 12:30:00", "'12:30:00' is read differently"),
        ("day: 2026-11-21", "'2026-11-21' is read differently"),
        ("size: 1_000", "'1_000' is read differently"),
        ("a: .5", "'.5' is read differently"),
        ("<<: {a: b}", "'<<' is read differently"),
        ("1: a", "expected a string as a key"),
        ("- a", "expected a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_yaml_that_parsers_disagree_on(text: str, refusal: str) -> None:
    """A scalar that YAML 1.1 and 1.2 read differently, or a key given twice, is refused with its line."""
    with pytest.raises(Refused, match=refusal):
        parse(text, "x.yaml")


def test_plain_yaml_is_read_as_json_is() -> None:
    """Strings, numbers, booleans, nothing and lists come through as they are written."""
    text = 'a: {b: [1, -2, 0.5, true, null, "yes", 8Gi, a:b]}\n---\nc: |\n  0644\n'
    assert parse(text, "x") == [{"a": {"b": [1, -2, 0.5, True, None, "yes", "8Gi", "a:b"]}}, {"c": "0644\n"}]
