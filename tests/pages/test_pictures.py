"""Each page has its pictures in docs/images, light and dark, and none is large."""

from tests.pages.screenshots import BYTES_MAX, FOLDER, PICTURES


def test_every_page_has_its_pictures() -> None:
    """``python -m tests.pages.screenshots`` writes them."""
    expected = {f"{name}-{scheme}.png" for name in PICTURES for scheme in ("light", "dark")}
    assert {path.name for path in FOLDER.iterdir()} == expected
    assert max(path.stat().st_size for path in FOLDER.iterdir()) < BYTES_MAX
