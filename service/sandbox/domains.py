"""The workspace's domains, with what is configured in Dub's dashboard."""

from typing import Any

import msgspec

from service.sandbox.store import Store


class SandboxDomain(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A domain of short links.

    `deep_view`: the domain's well-known files and deep-view data are configured, so that Dub shows phones its
    page before the store. `apple_app_site_association` and `asset_links` are the contents of the well-known
    files; if omitted, the files exist only with `deep_view`, and name no app.

    `local_destinations`: redirects lead to a page of the sandbox that shows the destination, so that the
    demo's links do not leave this machine. Answers and records of the API are not changed.
    """

    domain: str
    deep_view: bool = False
    local_destinations: bool = False
    apple_app_site_association: dict[str, Any] | None = None
    asset_links: list[dict[str, Any]] | None = None

    def well_known(self, path: str) -> Any | None:
        """Return the JSON content of the domain's well-known file at `path`; None if there is none."""
        if path == "/.well-known/apple-app-site-association":
            content: Any = self.apple_app_site_association
            empty: Any = {"applinks": {"details": []}}
        elif path == "/.well-known/assetlinks.json":
            content, empty = self.asset_links, []
        else:
            return None
        return empty if content is None and self.deep_view else content


class DomainBook:
    """The domains of the workspace. A domain remains when its links are deleted, as at Dub."""

    def __init__(self, store: Store) -> None:
        self._store = store
        rows = store.all("SELECT doc FROM domains")
        stored = (msgspec.json.decode(row["doc"], type=SandboxDomain) for row in rows)
        self._domains = {spec.domain: spec for spec in stored}

    def __contains__(self, domain: object) -> bool:
        """Return True if this is a domain of the workspace."""
        return domain in self._domains

    def get(self, domain: str) -> SandboxDomain:
        """Return a domain with its configuration; raises KeyError if it is unknown."""
        return self._domains[domain]

    def all(self) -> list[SandboxDomain]:
        """Return all domains, sorted by name."""
        return [self._domains[name] for name in sorted(self._domains)]

    def put(self, spec: SandboxDomain) -> SandboxDomain:
        """Add a domain, or replace an existing one; return it with its normalized name."""
        spec = msgspec.structs.replace(spec, domain=plain_domain(spec.domain))
        self._domains[spec.domain] = spec
        doc = msgspec.json.encode(spec).decode()
        self._store.run("INSERT OR REPLACE INTO domains VALUES (?, ?)", (spec.domain, doc))
        return spec

    def ensure(self, domain: str) -> None:
        """Add the domain of a link, unless it exists."""
        if domain not in self._domains:
            self.put(SandboxDomain(domain=domain))


def plain_domain(domain: str) -> str:
    """Return a domain normalized for looking up links: lower case, no leading `www.`."""
    return domain.lower().removeprefix("www.")
