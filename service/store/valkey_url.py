"""From a URL to a client of one server, of a Cluster, or of whichever server a Sentinel says it is."""

from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable

SOCKET_S = 1.0  # an operation's own time is shorter, but what is written behind may take this long
SENDERS_MAX = 4

_CONNECT_S = 0.25
_CONNECTIONS_MAX = 2 * SENDERS_MAX
_SENTINEL_PORT, _PORT = 26_379, 6379


class BadValkeyURL(ValueError):
    """A URL that names no server."""


def connect(url: str) -> Redis | RedisCluster:
    """Build the client of a URL; connections are made when they are needed. Raises ``BadValkeyURL``.

    ``redis://`` and ``rediss://`` name one server, ``redis+cluster://`` (or ``rediss+cluster://``) some nodes
    of a Cluster, ``redis+sentinel://host,host/name`` the Sentinels of a server and its name there.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "valkey", "valkeys") or kind not in ("", "cluster", "sentinel"):
        raise BadValkeyURL("expected redis://, rediss://, redis+cluster:// or redis+sentinel://")
    tls = scheme in ("rediss", "valkeys")
    if any(name not in ("db", "ssl_ca_certs", "ssl_cert_reqs") for name, _ in parse_qsl(parts.query)):
        raise BadValkeyURL("expected no query but db, ssl_ca_certs and ssl_cert_reqs")
    hosts = _hosts(parts.netloc, _SENTINEL_PORT if kind == "sentinel" else _PORT)
    options = _options(parts.username, parts.password, parts.query)
    if tls:
        options["ssl"] = True
    if kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in hosts]
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    if kind == "sentinel":
        name = parts.path.strip("/")
        if not name:
            raise BadValkeyURL("expected the server's name after the Sentinels: redis+sentinel://host/name")
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            hosts, sentinel_kwargs={"socket_timeout": _CONNECT_S}, **options
        )
        return cast("Redis", sentinel.master_for(name, **options))
    if len(hosts) != 1:
        raise BadValkeyURL("expected one server (redis+cluster:// takes several)")
    if parts.path.strip("/"):
        options["db"] = _number(parts.path.strip("/"))
    return Redis(host=hosts[0][0], port=hosts[0][1], max_connections=_CONNECTIONS_MAX, **options)


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for each in netloc.rpartition("@")[2].split(","):
        try:
            parts = urlsplit(f"//{each}")
            found = parts.port or port
        except ValueError as exc:
            raise BadValkeyURL("expected host:port") from exc
        if not parts.hostname:
            raise BadValkeyURL("expected a host")
        hosts.append((parts.hostname, found))
    return hosts


def _options(username: str | None, password: str | None, query: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": SOCKET_S,
        "socket_connect_timeout": _CONNECT_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(Unreachable,)),  # a connection that went stale
    }
    if username:
        options["username"] = unquote(username)
    if password:
        options["password"] = unquote(password)
    for name, value in parse_qsl(query):
        options[name] = _number(value) if name == "db" else value
    return options


def _number(text: str) -> int:
    if not text.isdecimal():
        raise BadValkeyURL("expected a database number after the host")  # what is there may be of a password
    return int(text)
