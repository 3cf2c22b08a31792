"""The contents of ``apple-app-site-association`` and ``assetlinks.json``."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

_NOT = "NOT "  # before a path that must not open the app


class WellKnownFiles(Struct, frozen=True):
    """The files of one app; None: the app has no settings for that system."""

    apple: dict[str, Any] | None
    android: list[dict[str, Any]] | None


def apple_app_site_association(app_ids: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
    """Return the file for iOS 13 and newer: links to these paths open the apps.

    A path may have ``*`` and ``?``; one after ``NOT `` is excluded. The first that matches decides.
    """
    components = [
        {"/": path.removeprefix(_NOT), "exclude": True} if path.startswith(_NOT) else {"/": path}
        for path in paths
    ]
    return {"applinks": {"details": [{"appIDs": list(app_ids), "components": components}]}}


def asset_links(package: str, fingerprints: Sequence[str]) -> list[dict[str, Any]]:
    """Return the file for Android: links open the package that is signed with one of these certificates."""
    return [
        {
            "relation": ["delegate_permission/common.handle_all_urls"],
            "target": {
                "namespace": "android_app",
                "package_name": package,
                "sha256_cert_fingerprints": list(fingerprints),
            },
        }
    ]
