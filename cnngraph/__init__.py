"""A graph compiler for convolutional networks: ONNX in, generated and specialised machine code out.

>>> import cnngraph
>>> program = cnngraph.compile("resnet50.onnx")
>>> logits = program.run({"input": images})["output"]

The names below are loaded when they are first used, so ``import cnngraph`` costs nothing and a compiled program runs without
Numba and onnx ever being imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnngraph import backend, errors
    from cnngraph.compiler import compile
    from cnngraph.options import CompileOptions, Limits
    from cnngraph.runtime.artifact import load
    from cnngraph.runtime.session import InferenceSession, Program

__version__ = "0.1.0"

__all__ = ["CompileOptions", "InferenceSession", "Limits", "Program", "__version__", "backend", "compile", "errors", "load"]

_HOME = {
    "CompileOptions": "cnngraph.options",
    "InferenceSession": "cnngraph.runtime.session",
    "Limits": "cnngraph.options",
    "Program": "cnngraph.runtime.session",
    "compile": "cnngraph.compiler",
    "load": "cnngraph.runtime.artifact",
}
_MODULES = ("backend", "errors")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"cnngraph.{name}")
    if name in _HOME:
        try:
            home = importlib.import_module(_HOME[name])
        except ModuleNotFoundError as error:
            if error.name != _HOME[name]:
                raise
            raise ModuleNotFoundError(f"cnngraph.{name} is not part of cnngraph-runtime; install cnngraph instead") from None
        value = getattr(home, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'cnngraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
