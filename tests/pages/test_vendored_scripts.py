"""The scripts that pages load are those of the npm packages, unchanged, with their licences."""

from hashlib import sha256

import pytest

from service.api.pages.assets import STATIC

# sha256 of dist/htmx.min.js in htmx.org 2.0.11, and of dist/sse.min.js in htmx-ext-sse 2.2.4
PINNED = {
    "htmx.min.js": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    "htmx-ext-sse.min.js": "98a46496de0c3605fbffdce9167ba427bdd9553184f83f149c261891a92c0136",
}


@pytest.mark.parametrize("name", PINNED)
def test_a_script_is_the_published_one(name: str) -> None:
    assert sha256((STATIC / name).read_bytes()).hexdigest() == PINNED[name]
    assert "Zero" in (STATIC / f"{name.removesuffix('.min.js')}.LICENSE").read_text()


def test_no_other_script_is_served() -> None:
    assert {path.name for path in STATIC.glob("*.js")} == PINNED.keys()
