"""ONNX import: files, validation, symbolic shapes, and one importer for each operator."""

from cnngraph.frontend.errors import BatchNotSymbolicError, ContentsNeededError, FreeDimensionsError
from cnngraph.frontend.importer import import_model
from cnngraph.frontend.registry import OpRange, supported_ops

__all__ = [
    "BatchNotSymbolicError",
    "ContentsNeededError",
    "FreeDimensionsError",
    "OpRange",
    "import_model",
    "supported_ops",
]
