"""Refusals of the importer that a caller can act on by importing again with more information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnngraph.errors import Problem, UnsupportedError, printable

DeclaredShape = tuple[int | str | None, ...] | None
_USUAL = (1, 3, 224, 224)


def shown(inputs: Mapping[str, DeclaredShape]) -> str:
    """What inputs declare, for a message: ``'x' declares [n, 3, ?]; 'y' declares no shape at all``."""
    rows = []
    for name, dims in inputs.items():
        shape = "no shape at all" if dims is None else "[" + ", ".join("?" if d is None else printable(str(d)) for d in dims) + "]"
        rows.append(f"'{printable(name)}' declares {shape}")
    return "; ".join(rows)


def sizes(inputs: Mapping[str, DeclaredShape]) -> dict[str, list[int]]:
    """Shapes that would fix inputs: declared numbers where there are any, elsewhere usual ones."""
    chosen = {}
    for name, dims in inputs.items():
        usual = _USUAL if dims is None or len(dims) <= len(_USUAL) else (1,) * len(dims)
        chosen[name] = [dim if isinstance(dim, int) else size for dim, size in zip(dims or [None] * len(usual), usual, strict=False)]
    return chosen


def example(inputs: Mapping[str, DeclaredShape]) -> str:
    """The argument that would fix them: ``shapes={'x': [1, 3, 224, 224]}``."""
    chosen = ", ".join(f"'{printable(name)}': {shape}" for name, shape in sizes(inputs).items())
    return f"shapes={{{chosen}}}"


class FreeDimensionsError(UnsupportedError):
    """Graph inputs have free dimensions other than the leading one; import again with ``shapes``.

    Attributes:
        inputs: name of the input to its declared dimensions (a name or None where free), None if it declares no shape at all.
    """

    def __init__(self, message: str, inputs: Mapping[str, DeclaredShape]) -> None:
        self.inputs = dict(inputs)
        super().__init__(message)


class BatchNotSymbolicError(UnsupportedError):
    """A node needs a number for the batch size; import again with ``batch``."""


class ContentsNeededError(UnsupportedError):
    """Shapes depend on the contents of graph inputs; import again with ``constants`` that gives them.

    Attributes:
        inputs: names of the graph inputs whose contents are needed.
    """

    def __init__(self, message: str, problems: Sequence[Problem], inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        super().__init__(message, problems)
