"""Refusals of the importer that a caller can act on by importing again with more information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnngraph.errors import Problem, UnsupportedError

DeclaredShape = tuple[int | str | None, ...] | None


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
