"""What was measured of layers: kept in the cache folder or in a file of the user's, and turned into choices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cnngraph
from cnngraph.errors import InvalidInputError, UsageError, printable
from cnngraph.runtime import cache
from cnngraph.runtime.features import cpu_model

SCHEMA = 1
LEAST_GAIN = 0.02
"""A variant replaces the default if it saves at least this share of the time, in two measurements."""

_COMPILERS = ("numba", "llvmlite")
_LARGEST = 64 << 20


@dataclass(frozen=True)
class Record:
    """One variant of a layer against the default.

    Attributes:
        isa, threads: what it was measured with.
        layer: see :func:`cnngraph.tuning.keys.key_of`.
        context: layouts around the layer.
        default: template that the cost model chooses.
        template, variant: what was measured; the default itself has its template and no variant.
        seconds: least time of the variant, in the less favourable of its measurements.
        default_seconds: that of the default in the same measurement.
        confirmed: whether it was better in two measurements.
    """

    isa: str
    threads: int
    layer: str
    context: str
    default: str
    template: str
    variant: str
    seconds: float
    default_seconds: float
    confirmed: bool = False

    @property
    def ratio(self) -> float:
        """Its time over the default's."""
        return self.seconds / self.default_seconds

    @property
    def better(self) -> bool:
        """Whether it may replace the default."""
        return self.confirmed and self.ratio <= 1 - LEAST_GAIN


@dataclass
class Records:
    """Measurements on one kind of machine by one version of the compiler.

    Attributes:
        path: the user's file; None for the cache folder's.
        cpu, versions: where and by what the records were made.
        found: the records, in order of measuring.
    """

    path: Path | None
    cpu: str = field(default_factory=cpu_model)
    versions: dict[str, str] = field(default_factory=lambda: _versions())
    found: list[Record] = field(default_factory=list)

    @classmethod
    def of_this_machine(cls, path: Path | None) -> Records:
        """The records to go on with: those in ``path``, or in the cache folder; none yet if there is no such file.

        Raises:
            UsageError: the file holds the records of another processor or version, which measurements here would spoil.
            InvalidInputError: the file holds no records.
        """
        new = cls(path)
        if path is not None and path.exists():
            old = cls.read(path)
            if (old.cpu, old.versions) != (new.cpu, new.versions):
                where = f"{printable(old.cpu)} ({_text(old.versions)})"
                raise UsageError(f"'{printable(str(path))}' has records of {where}, not of this machine")
            return old
        if path is None and cache.trusted():
            try:
                return cls.read(cache.cache_dir() / new._name, path=None)
            except (OSError, InvalidInputError):
                return new
        return new

    @classmethod
    def read(cls, file: Path, **changes: Any) -> Records:
        """The records in a file, of whatever machine.

        Raises:
            InvalidInputError: it holds none, or is damaged.
            OSError: it cannot be read.
        """
        if file.stat().st_size > _LARGEST:
            raise InvalidInputError(f"'{printable(str(file))}' is too large for tuning records")
        try:
            data = json.loads(file.read_text("utf-8"))
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']!r}")
            made = cls(changes.get("path", file), str(data["cpu"]), {str(k): str(v) for k, v in data["versions"].items()})
            made.found = [_record(entry) for entry in data["records"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"'{printable(str(file))}' holds no tuning records: {printable(str(error), 200)}") from error
        return made

    def add(self, record: Record) -> None:
        """Keep a record, also on disk; a user's file that cannot be written raises OSError, the cache folder only warns."""
        self.found.append(record)
        self.write()

    def write(self) -> None:
        """Write all records, whole or not at all."""
        data = {"schema": SCHEMA, "cpu": self.cpu, "versions": self.versions, "records": [asdict(record) for record in self.found]}
        text = json.dumps(data, indent=1).encode()
        if self.path is None:
            cache.write(self._name, [text])
        else:
            beside = self.path.with_name(self.path.name + ".tmp")
            beside.write_bytes(text)
            beside.replace(self.path)

    def of(self, isa: str, layer: str, context: str, default: str) -> list[Record]:
        """The records of one layer in one place."""
        wanted = (isa, layer, context, default)
        return [r for r in self.found if (r.isa, r.layer, r.context, r.default) == wanted]

    def best(self, isa: str, layer: str, context: str, default: str, threads: int, allowed: Iterable[str]) -> Record | None:
        """The variant that should replace the default, of templates that are ``allowed``; None if none was better.

        Records with this number of threads count, or all if there are none.
        """
        names = set(allowed)
        of_layer = self.of(isa, layer, context, default)
        usable = [r for r in of_layer if r.threads == threads] or of_layer
        return min((r for r in usable if r.better and r.template in names), key=lambda r: r.ratio, default=None)

    @property
    def _name(self) -> str:
        digest = hashlib.sha256(json.dumps([SCHEMA, self.cpu, self.versions]).encode()).hexdigest()
        return f"tuning-{digest[:32]}.json"


def _versions() -> dict[str, str]:
    """Versions of all that decides how fast a kernel is."""
    found = {"cnngraph": cnngraph.__version__}
    for name in _COMPILERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _text(versions: dict[str, str]) -> str:
    return ", ".join(f"{printable(name)} {printable(number)}" for name, number in versions.items())


_KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def _record(entry: Any) -> Record:
    """A record from JSON; raises TypeError or ValueError for anything else."""
    record = Record(**entry)
    for what in fields(Record):
        if not isinstance(getattr(record, what.name), _KINDS[str(what.type)]):
            raise TypeError(f"{what.name} is {getattr(record, what.name)!r}")
    if not (record.seconds > 0 and record.default_seconds > 0):
        raise ValueError("a time that is not positive")
    return record
