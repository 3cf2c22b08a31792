"""The workspace's domains, and how each is set up in Dub's dashboard."""

from typing import Any

import msgspec

from service.sandbox.store import Store


class SandboxDomain(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A domain of short links.

    `deep_view`: the domain's well-known files and deep-view data are set up, so that Dub shows phones its
    page before the store. `apple_app_site_association` and `asset_links` are what its well-known files hold;
    left out, the files exist only with `deep_view`, and name no app.

    `local_destinations`: redirects go to a page of the sandbox that names the destination, so that whoever
    tries the demo's links stays on this machine. What the API answers and records is not changed.
    """

    domain: str
    deep_view: bool = False
    local_destinations: bool = False
    apple_app_site_association: dict[str, Any] | None = None
    asset_links: list[dict[str, Any]] | None = None

    def well_known(self, path: str) -> Any | None:
        """Return what the domain serves as this well-known file, ready for JSON; None for nothing."""
        if path == "/.well-known/apple-app-site-association":
            content: Any = self.apple_app_site_association
            empty: Any = {"applinks": {"details": []}}
        elif path == "/.well-known/assetlinks.json":
            content, empty = self.asset_links, []
        else:
            return None
        return empty if content is None and self.deep_view else content


class DomainBook:
    """Every domain. One that got a link stays a domain when its links are gone, as in a workspace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.all("SELECT doc FROM domains")
        held = (msgspec.json.decode(row["doc"], type=SandboxDomain) for row in rows)
        self._domains = {spec.domain: spec for spec in held}

    def __contains__(self, domain: object) -> bool:
        """Return True if this is a domain of the workspace."""
        return domain in self._domains

    def get(self, domain: str) -> SandboxDomain:
        """Return how a domain is set up; raises KeyError for one that is unknown."""
        return self._domains[domain]

    def all(self) -> list[SandboxDomain]:
        """Return every domain, by name."""
        return [self._domains[name] for name in sorted(self._domains)]

    def put(self, spec: SandboxDomain) -> SandboxDomain:
        """Add a domain, or set up anew one that exists; return it with its name as links have it."""
        spec = msgspec.structs.replace(spec, domain=plain_domain(spec.domain))
        self._domains[spec.domain] = spec
        doc = msgspec.json.encode(spec).decode()
        self._store.run("INSERT OR REPLACE INTO domains VALUES (?, ?)", (spec.domain, doc))
        return spec

    def ensure(self, domain: str) -> None:
        """Add a domain that a link names, unless it exists."""
        if domain not in self._domains:
            self.put(SandboxDomain(domain=domain))


def plain_domain(domain: str) -> str:
    """Return a domain as links are found by it: lower case, no leading `www.`."""
    return domain.lower().removeprefix("www.")
