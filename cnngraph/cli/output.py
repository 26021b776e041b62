"""What a verb prints: one JSON object, or tables for people; and files written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import numpy as np

from cnngraph.cli.errors import SCHEMA
from cnngraph.errors import CnngraphError, printable

if TYPE_CHECKING:
    from cnngraph.kernels.template import ProgressCallback

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (docs/cli.md describes it).")


class OutputError(CnngraphError):
    """A result cannot be written where the user asked for it."""


def emit(command: str, data: Mapping[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Print the result of a verb: ``data`` as JSON, or else whatever ``show`` prints."""
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "command": command, **plain(data)}, indent=2, allow_nan=False))
    else:
        show()


def plain(value: Any) -> Any:
    """``value`` with NumPy numbers, tuples and paths replaced by what JSON has; NaN and infinities become strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], *, footer: Sequence[object] | None = None) -> None:
    """Print a table; columns that hold only numbers are aligned right. Piped output is plain text of full width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    body = [[_cell(cell) for cell in row] for row in rows]
    foot = None if footer is None else [_cell(cell) for cell in footer]
    right = [bool(body) and all(_is_number(row[index]) for row in body) for index in range(len(columns))]
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        click.echo("\n".join(_plain_table(title, [list(columns)], body, [] if foot is None else [foot], right)))
        return
    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_footer=foot is not None)
    for index, name in enumerate(columns):
        grid.add_column(name, justify="right" if right[index] else "left", overflow="fold", footer="" if foot is None else foot[index])
    for row in body:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


def _plain_table(
    title: str | None, head: list[list[str]], body: list[list[str]], foot: list[list[str]], right: Sequence[bool]
) -> Iterator[str]:
    """Lines of a table as on a terminal, however wide, without colours; ten times as fast as by rich."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*head, *body, *foot, strict=True)]

    def line(row: Sequence[str]) -> str:
        gaps = [" " * (width - cell_len(cell)) for width, cell in zip(widths, row, strict=True)]
        return (" " + "   ".join(gap + cell if r else cell + gap for gap, cell, r in zip(gaps, row, right, strict=True))).rstrip()

    if title is not None:
        yield title
    yield ""
    yield from map(line, head)
    yield " " + "\u2500" * (sum(widths) + 3 * (len(widths) - 1))
    yield from map(line, body)
    for row in foot:
        yield ""
        yield line(row)
    yield ""


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return printable(str(value), 400)


def _is_number(text: str) -> bool:
    return not text or text.replace(",", "").replace(".", "").replace("-", "").rstrip("%x").strip().isdigit()


def size(nbytes: int) -> str:
    """Bytes for people, in decimal units: 512 B, 1.5 kB, 3.2 MB."""
    amount, unit = float(nbytes), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, bigger
    return f"{nbytes} B" if unit == "B" else f"{amount:.2f} {unit}"


def dims(shape: Iterable[object]) -> str:
    """A shape for people: 1x3x224x224, with ? for an unnamed free dimension."""
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under ``path`` only if the block succeeds; until then nothing there changes.

    Raises:
        OutputError: the folder or the disk does not allow it.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".cnngraph-", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"cannot write '{printable(str(path))}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears under ``path`` only if the block succeeds.

    Raises:
        OutputError: ``path`` exists already, or the disk does not allow it.
    """
    import shutil

    if path.exists():
        raise OutputError(f"'{printable(str(path))}' exists already; give another folder")
    temporary: str | None = None
    try:
        temporary = tempfile.mkdtemp(dir=path.parent, prefix=".cnngraph-")
        yield Path(temporary)
        os.chmod(temporary, 0o777 & ~_umask())
        os.rename(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"cannot write '{printable(str(path))}': {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@contextmanager
def kernel_progress() -> Iterator[ProgressCallback | None]:
    """A progress bar on standard error while kernels compile; None where that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("compiling kernels"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("kernels", total=None)

        def update(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total)

        yield update
