"""The files by which iOS and Android verify links, for hosts that point at firstopen.

Forms: Apple's and Android's published examples. A phone refuses a redirect and another content type.
"""

import pytest

from service.app import create_app
from service.config.settings import SettingsError, parse
from tests.support import CONFIG, ENV, Service, running

FINGERPRINT = ":".join(["14", "6D"] * 16)
SETTINGS = f"""
[apps.acme.ios]
app_ids = ["ABCDE12345.com.acme.app"]
paths = ["NOT /help/*", "*"]

[apps.acme.android]
package = "com.acme.app"
sha256_cert_fingerprints = ["{FINGERPRINT}"]
"""


async def get(service: Service, path: str, host: str) -> tuple[int, str, object]:
    reply = await service.get(f"/.well-known/{path}", headers={"Host": host, "Authorization": ""})
    return reply.status_code, reply.headers["content-type"], reply.json()


@pytest.mark.parametrize("host", ["acme.link", "www.acme.link", "ACME.link:8000"])
async def test_they_are_served_to_anybody_on_the_apps_domains(host: str) -> None:
    async with running(create_app(parse(CONFIG + SETTINGS, ENV))) as service:
        assert await get(service, "apple-app-site-association", host) == (
            200,
            "application/json",
            {
                "applinks": {
                    "details": [
                        {
                            "appIDs": ["ABCDE12345.com.acme.app"],
                            "components": [{"/": "/help/*", "exclude": True}, {"/": "*"}],
                        }
                    ]
                }
            },
        )
        assert await get(service, "assetlinks.json", host) == (
            200,
            "application/json",
            [
                {
                    "relation": ["delegate_permission/common.handle_all_urls"],
                    "target": {
                        "namespace": "android_app",
                        "package_name": "com.acme.app",
                        "sha256_cert_fingerprints": [FINGERPRINT],
                    },
                }
            ],
        )


@pytest.mark.parametrize("host", ["globex.link", "evil.example", ""])
async def test_other_hosts_have_none(host: str) -> None:
    """Neither an app without settings nor an unknown host gets another app's file."""
    async with running(create_app(parse(CONFIG + SETTINGS, ENV))) as service:
        for path in ("apple-app-site-association", "assetlinks.json"):
            status, _, body = await get(service, path, host)
            assert status == 404
            assert "acme" not in str(body)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ('[apps.acme.ios]\napp_ids = ["com.acme.app"]', "apps.acme.ios.app_ids[0]: expected team id"),
        (
            '[apps.acme.ios]\napp_ids = ["ABCDE12345.com.acme.app"]\npaths = ["product"]',
            "apps.acme.ios.paths[0]: expected a path",
        ),
        ("[apps.acme.ios]\napp_ids = []", "apps.acme.ios.app_ids: "),
        (
            f'[apps.acme.android]\npackage = "acme"\nsha256_cert_fingerprints = ["{FINGERPRINT}"]',
            "apps.acme.android.package: expected a package",
        ),
        (
            '[apps.acme.android]\npackage = "com.acme.app"\nsha256_cert_fingerprints = ["14:6d"]',
            "apps.acme.android.sha256_cert_fingerprints[0]: expected 32 bytes",
        ),
    ],
)
def test_a_mistake_is_named(table: str, error: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(f"{CONFIG}\n{table}", ENV)
    assert error in str(refused.value)
