"""The demo's domain and links. Browsers resolve `*.localhost` to this machine."""

from service.sandbox.domains import SandboxDomain
from service.sandbox.links import SandboxLink

DOMAIN = "acme.localhost"
APP_STORE = "https://apps.apple.com/us/app/acme/id1234567890"
PLAY_STORE = "https://play.google.com/store/apps/details?id=com.acme.app"


def demo_domain() -> SandboxDomain:
    """Return the demo's domain: configured for deep links, and without redirects to real websites."""
    return SandboxDomain(
        domain=DOMAIN,
        deep_view=True,
        local_destinations=True,
        apple_app_site_association={
            "applinks": {"details": [{"appIDs": ["ABCDE12345.com.acme.app"], "components": [{"/": "*"}]}]}
        },
        asset_links=[
            {
                "relation": ["delegate_permission/common.handle_all_urls"],
                "target": {
                    "namespace": "android_app",
                    "package_name": "com.acme.app",
                    "sha256_cert_fingerprints": [":".join(["00"] * 32)],
                },
            }
        ],
    )


def demo_links() -> list[SandboxLink]:
    """Return four links: to a product (with store links for phones), a category, an invite and a web page."""
    return [
        SandboxLink(
            domain=DOMAIN,
            key="fb-promo",
            url="https://acme.com/product/123",
            ios=APP_STORE,
            android=PLAY_STORE,
        ),
        SandboxLink(domain=DOMAIN, key="summer", url="https://acme.com/category/shoes?sort=new&size=42"),
        SandboxLink(domain=DOMAIN, key="join-anna", url="https://acme.com/invite/anna"),
        SandboxLink(domain=DOMAIN, key="press", url="https://acme.com/press/2026"),
    ]
