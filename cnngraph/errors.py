"""One hierarchy of errors; every error that a model causes names the ONNX node, the op and the shapes.

Each class carries the exit code that the command line uses for it:
1 a check failed or the input is invalid, 2 usage, 3 unsupported, 4 a limit was exceeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CnngraphError(Exception):
    """Base of every error that cnngraph raises on purpose.

    Attributes:
        node: name of the ONNX node concerned, or None.
        exit_code: process exit status of the command line for this error.
    """

    exit_code = 1

    def __init__(self, message: str, *, node: str | None = None) -> None:
        self.node = node
        super().__init__(f"{message} [node {printable(node)}]" if node is not None else message)


class InvalidModelError(CnngraphError):
    """The file is missing, not ONNX, truncated, or describes an impossible network."""


class InvalidInputError(CnngraphError):
    """A feed has an unknown name, a wrong shape or a wrong dtype."""


class ArtifactError(CnngraphError):
    """A compiled artifact is corrupt, truncated, or made for another instruction set."""


class UsageError(CnngraphError):
    """An option has a value that cannot be honoured."""

    exit_code = 2


class LimitExceededError(CnngraphError):
    """A size in the model or in a request passes a limit of :class:`cnngraph.options.Limits`."""

    exit_code = 4


class InternalError(CnngraphError):
    """The compiler broke one of its own invariants; the message names the pass."""


@dataclass(frozen=True)
class Problem:
    """One reason why a model is refused.

    Attributes:
        node: name of the ONNX node.
        op: ONNX operator, with its domain if it is not the standard one.
        reason: sentence a user can act on.
    """

    node: str
    op: str
    reason: str


class UnsupportedError(CnngraphError):
    """The model is valid but needs something cnngraph lacks; lists every such place at once."""

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[Problem] = (), *, node: str | None = None) -> None:
        self.problems = tuple(problems)
        rows = "".join(f"\n  {printable(p.node)}: {printable(p.op)}: {p.reason}" for p in self.problems)
        super().__init__(message + rows, node=node)


def printable(text: str | None, limit: int = 120) -> str:
    """Return ``text`` from a model file in a form that is safe to print: one line, bounded, no control characters."""
    if text is None:
        return "?"
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
