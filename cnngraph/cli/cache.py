"""``cnngraph cache``: the folder of compiled kernels and programs."""

from __future__ import annotations

import time
from typing import Any

import click

from cnngraph.cli.output import emit, json_option, size, table
from cnngraph.errors import CnngraphError

backend_option = click.option("--backend", default="cpu", show_default=True, metavar="NAME", help="The backend whose cache it is.")


class DamagedCacheError(CnngraphError):
    """Entries of the kernel cache do not match their checksums."""


@click.group("cache")
def command() -> None:
    """Look at, check or shrink the cache of compiled kernels and programs."""


@command.command("ls")
@backend_option
@json_option
def ls_command(backend: str, as_json: bool) -> None:
    """List the kernels and programs, oldest use first."""
    from cnngraph.backends import get_backend

    cache = get_backend(backend).cache()
    entries: list[dict[str, Any]] = []
    for path in cache.entries():
        try:
            status = path.stat()
        except FileNotFoundError:  # another process has pruned it
            continue
        entries.append({"key": path.stem, "kind": path.suffix[1:], "bytes": status.st_size, "modified": status.st_mtime})
    total = sum(entry["bytes"] for entry in entries)

    def show() -> None:
        table(
            None,
            ["key", "kind", "bytes", "last used"],
            [[e["key"], e["kind"], e["bytes"], time.strftime("%F %T", time.localtime(e["modified"]))] for e in entries],
        )
        click.echo(f"{len(entries)} entries, {size(total)}, in {cache.cache_dir()}")

    emit("cache ls", {"folder": cache.cache_dir(), "bytes": total, "entries": entries}, as_json, show)


@command.command("verify")
@backend_option
@json_option
def verify_command(backend: str, as_json: bool) -> None:
    """Check every entry against its checksum; exit status 1 if one is damaged (it would be compiled anew, not used)."""
    from cnngraph.backends import get_backend

    good, damaged = get_backend(backend).cache().verify()
    if damaged:
        raise DamagedCacheError(f"{len(damaged)} of {good + len(damaged)} entries are damaged: {', '.join(p.name for p in damaged[:10])}")
    emit("cache verify", {"sound": good, "damaged": []}, as_json, lambda: click.echo(f"{good} entries, all sound"))


@command.command("prune")
@click.option("--max-mb", type=click.FloatRange(min=0.0), default=0.0, show_default=True, help="Keep the newest entries up to this size.")
@backend_option
@json_option
def prune_command(max_mb: float, backend: str, as_json: bool) -> None:
    """Delete the oldest entries until the rest fits."""
    from cnngraph.backends import get_backend

    removed = get_backend(backend).cache().prune(int(max_mb * 1e6))
    emit("cache prune", {"removed": removed}, as_json, lambda: click.echo(f"{removed} entries deleted"))
