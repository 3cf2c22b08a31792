"""The metrics of several workers on one port, as one: each writes its own down, who is scraped adds them up.

What can go wrong: a worker dies, and its counts with it (its successor goes on from what it had written);
a file half written (it is renamed into place); a gauge added up that is the same everywhere (see ``_ADDED``).
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

_EVERY_S = 1.0
_ADDED = frozenset({"firstopen_in_flight", "firstopen_dub_in_flight"})
_GREATEST = frozenset({"firstopen_breaker_open"})  # any other gauge is its own worker's word


class _Sample(Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class _Family(Struct, frozen=True, array_like=True):
    name: str
    meaning: str
    kind: str
    samples: list[_Sample]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Family]).decode


class Peers:
    """One worker's way to the metrics of all, in a folder that they share."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._file = folder / f"{number}.metrics"
        self._before = [each for each in _read(self._file) if each.kind != "gauge"]

    async def publish_on(self, registry: CollectorRegistry, refresh: Callable[[], None]) -> None:
        """Write this worker's metrics down every second."""
        while True:
            refresh()
            self.publish(registry)
            await asyncio.sleep(_EVERY_S)

    def publish(self, registry: CollectorRegistry) -> None:
        """Write this worker's metrics down; a full disk costs nothing but the others' sight of them."""
        text = _encode(_merged([self._before, _told(registry.collect())], own=1))
        draft = self._file.with_suffix(".draft")
        with contextlib.suppress(OSError):
            draft.write_bytes(text)
            draft.replace(self._file)

    def merged(self, registry: CollectorRegistry) -> Collector:
        """Return this worker's metrics together with what the others have written down.

        Its own are written down first: what was seen once is not lost if it dies.
        """
        self.publish(registry)
        told = [_merged([self._before, _told(registry.collect())], own=1)]
        told += [_read(file) for file in sorted(self._folder.glob("*.metrics")) if file != self._file]
        return _Merged(_merged(told, own=0))


class _Merged(Collector):
    def __init__(self, families: Sequence[_Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus reads."""
        for family in self._families:
            metric = Metric(family.name, family.meaning, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _told(families: Iterable[Metric]) -> list[_Family]:
    return [
        _Family(
            each.name,
            each.documentation,
            each.type,
            [_Sample(sample.name, sample.labels, sample.value) for sample in each.samples],
        )
        for each in families
    ]


def _read(file: Path) -> list[_Family]:
    try:
        return _decode(file.read_bytes())
    except (OSError, msgspec.DecodeError):
        return []


def _merged(told: Sequence[Sequence[_Family]], *, own: int) -> list[_Family]:
    """Add up; gauges that are neither added nor compared are those of ``told[own]``."""
    families: dict[str, tuple[_Family, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for number, some in enumerate(told):
        for family in some:
            _, values = families.setdefault(family.name, (family, {}))
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                if key not in values:
                    if number == own or family.kind != "gauge" or family.name in _ADDED | _GREATEST:
                        values[key] = sample.value
                elif family.kind != "gauge" or family.name in _ADDED:
                    values[key] += sample.value
                elif family.name in _GREATEST:
                    values[key] = max(values[key], sample.value)
    return [
        _Family(
            family.name,
            family.meaning,
            family.kind,
            [_Sample(name, dict(labels), value) for (name, labels), value in values.items()],
        )
        for family, values in families.values()
    ]
