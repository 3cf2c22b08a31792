"""Checks of what each domain serves to iOS and Android, so that its links open the app.

Phones accept these files only from HTTPS, without a redirect and as JSON, and say nothing if they refuse one.
Apple's devices read a copy at Apple's CDN, which may be a day old.

Sources: Apple, "Supporting associated domains"; Android, "Verify Android App Links".
"""

import contextlib
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from service.config.settings import AndroidSettings, IosSettings, Settings
from service.doctor.checks import Check, fail, ok, warn
from service.doctor.network import Fetched, fetch

APPLE = "/.well-known/apple-app-site-association"
ANDROID = "/.well-known/assetlinks.json"
_APPLE_CDN = "https://app-site-association.cdn-apple.com/a/v1/"
_APPLE_MAX_BYTES = 128 * 1024
_OPENS_LINKS = "delegate_permission/common.handle_all_urls"


async def domain_checks(settings: Settings, http: httpx.AsyncClient) -> list[Check]:
    """Check the files of every domain of every app that has settings for a system."""
    checks: list[Check] = []
    for name, app in settings.apps.items():
        if app.ios is None and app.android is None:
            checks.append(
                warn(
                    f"{name}: app links",
                    "not checked: it is not known which apps should open the links",
                    f"set [apps.{name}.ios] and [apps.{name}.android]",
                )
            )
        for domain in app.domains:
            base, headers = _address(domain, settings.dub_base_url)
            if app.ios is not None:
                served = await fetch(http, f"{base}{APPLE}", headers=headers)
                checks.append(_apple_check(f"{domain}: iOS", served, app.ios))
                if checks[-1].status == "ok" and base.startswith("https:"):
                    copy = await fetch(http, f"{_APPLE_CDN}{domain}")
                    checks.append(_cdn_check(f"{domain}: Apple's copy", copy, served))
            if app.android is not None:
                served = await fetch(http, f"{base}{ANDROID}", headers=headers)
                checks.append(_android_check(f"{domain}: Android", served, app.android))
    return checks


def _address(domain: str, dub_base_url: str) -> tuple[str, dict[str, str]]:
    """Return a domain's base URL; domains of a sandbox are asked at its own address."""
    local = domain.endswith(".localhost")
    with contextlib.suppress(ValueError):
        local = local or ip_address(domain) is not None
    if not local:
        return f"https://{domain}", {}
    port = urlsplit(dub_base_url).port or 8001
    return f"http://127.0.0.1:{port}", {"Host": f"{domain}:{port}"}


def _document(name: str, reply: Fetched, expected: str) -> Any | Check:
    """Return the decoded file, or the check that failed."""
    fix = f"serve {expected} with status 200 and Content-Type: application/json"
    if reply.problem:
        return fail(name, reply.problem, fix)
    if reply.is_redirect:
        return fail(name, f"{reply.status}: a redirect, which phones do not follow", fix)
    if reply.status != httpx.codes.OK:
        return fail(name, f"status {reply.status}", fix)
    content_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        return fail(name, f"Content-Type {content_type or 'missing'}", fix)
    try:
        return msgspec.json.decode(reply.body)
    except msgspec.DecodeError as exc:
        return fail(name, f"not JSON: {exc}", fix)


def _apple_check(name: str, reply: Fetched, ios: IosSettings) -> Check:
    document = _document(name, reply, APPLE)
    if isinstance(document, Check):
        return document
    if len(reply.body) > _APPLE_MAX_BYTES:
        return fail(name, f"{len(reply.body):,} bytes", f"keep it below {_APPLE_MAX_BYTES:,} bytes")
    named = _app_ids(document)
    missing = [app_id for app_id in ios.app_ids if app_id not in named]
    if missing:
        detail = f"does not name {', '.join(missing)}; it names {', '.join(sorted(named)) or 'no app'}"
        return fail(name, detail, "correct the file, or app_ids: team id, a dot, bundle id")
    return ok(name, f"names {', '.join(ios.app_ids)}")


def _app_ids(document: Any) -> set[str]:
    """Return the apps in a file's applinks, in the form of iOS 13 or the one before it."""
    try:
        details = document["applinks"]["details"]
        each = details if isinstance(details, list) else [{"appID": name} for name in details]
        return {
            app_id for one in each for app_id in (*one.get("appIDs", ()), *filter(None, [one.get("appID")]))
        }
    except (KeyError, TypeError, AttributeError):
        return set()


def _cdn_check(name: str, copy: Fetched, served: Fetched) -> Check:
    fix = "Apple fetches a changed file within a day; a phone in developer mode reads the domain itself"
    if copy.problem:
        return warn(name, copy.problem, "is Apple's CDN reachable from here?")
    if copy.status != httpx.codes.OK:
        return warn(name, f"status {copy.status}: Apple has no copy", fix)
    try:
        same = bool(msgspec.json.decode(copy.body) == msgspec.json.decode(served.body))
    except msgspec.DecodeError:
        return warn(name, "not JSON", fix)
    return ok(name, "the same file") if same else warn(name, "another file than the domain's", fix)


def _android_check(name: str, reply: Fetched, android: AndroidSettings) -> Check:
    document = _document(name, reply, ANDROID)
    if isinstance(document, Check):
        return document
    found = [fingerprints for package, fingerprints in _packages(document) if package == android.package]
    if not found:
        return fail(name, f"does not name {android.package}", "correct the file, or package")
    known = {fingerprint.upper() for fingerprints in found for fingerprint in fingerprints}
    missing = [each for each in android.sha256_cert_fingerprints if each not in known]
    if missing:
        return fail(
            name,
            f"does not have the fingerprint {missing[0][:11]}… of {android.package}",
            "add it: Play Console, App integrity, App signing key certificate",
        )
    return ok(name, f"names {android.package} and {len(android.sha256_cert_fingerprints)} fingerprints")


def _packages(document: Any) -> list[tuple[str, list[str]]]:
    """Return packages and fingerprints of the statements that let an app open links."""
    try:
        return [
            (statement["target"]["package_name"], statement["target"]["sha256_cert_fingerprints"])
            for statement in document
            if _OPENS_LINKS in statement["relation"] and statement["target"].get("namespace") == "android_app"
        ]
    except (KeyError, TypeError, AttributeError):
        return []
