"""The ``onnx.backend`` interface: ``cnngraph.backend.prepare(model).run(inputs)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from cnngraph.errors import InvalidInputError, UsageError, printable
from cnngraph.runtime.dynamic import DynamicProgram
from cnngraph.runtime.session import Program
from cnngraph.runtime.tailed import TailedProgram


class CnngraphRep(BackendRep):
    """A compiled model.

    Attributes:
        program: what :func:`cnngraph.compile` returned.
    """

    def __init__(self, program: Program | TailedProgram | DynamicProgram) -> None:
        self.program = program

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs as a named tuple, in the model's order.

        Args:
            inputs: arrays in the order of the model's inputs, one array alone, or a mapping by name.
            kwargs: ``threads``.

        Raises:
            InvalidInputError: a wrong number of inputs, name, dtype or shape.
        """
        names = [spec.name for spec in self.program.inputs]
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            arrays = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(arrays) != len(names):
                listed = ", ".join(map(printable, names)) or "none"
                raise InvalidInputError(f"{len(arrays)} inputs given, the model has {len(names)}: {listed}")
            feeds = dict(zip(names, arrays, strict=True))
        results = self.program.run(feeds, **kwargs)
        return namedtupledict("Outputs", list(results))(*results.values())


class CnngraphBackend(Backend):
    """cnngraph on the CPU as an ONNX backend."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether :meth:`prepare` would succeed, found out by importing and checking the model."""
        from cnngraph.errors import CnngraphError
        from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, FreeDimensionsError, import_model

        try:
            import_model(model)
        except (FreeDimensionsError, BatchNotSymbolicError, ContentsNeededError):
            return cls.supports_device(device)
        except CnngraphError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> CnngraphRep:
        """Compile ``model``; ``kwargs`` are those of :func:`cnngraph.compile`.

        Raises:
            UsageError: a device other than the CPU.
            CnngraphError: whatever :func:`cnngraph.compile` raises.
        """
        from cnngraph.pipeline import compile

        if not cls.supports_device(device):
            raise UsageError(f"there is no device {printable(device)!r}; cnngraph has CPU")
        return CnngraphRep(compile(model, **kwargs))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile ``model`` and run it once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence[tuple[Any, Any]] | None = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run a single node on ``inputs`` (arrays in the order of its present inputs, or a mapping by name).

        Args:
            node: the node; attributes hold everything but the inputs.
            inputs: arrays.
            device: "CPU".
            outputs_info: unused; types are inferred.
            kwargs: ``opset_version`` (default: the newest that onnx and cnngraph know), and those of :meth:`prepare`.
        """
        from cnngraph.frontend.registry import NEWEST_OPSET

        names = list(dict.fromkeys(name for name in node.input if name))
        arrays = [np.asarray(inputs[name]) for name in names] if isinstance(inputs, Mapping) else [np.asarray(a) for a in inputs]
        if len(arrays) != len(names):
            raise InvalidInputError(f"{len(arrays)} inputs given, the node has {len(names)}")
        opset = int(kwargs.pop("opset_version", min(NEWEST_OPSET, onnx.defs.onnx_opset_version())))
        tensors = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "node", tensors, results), opset_imports=[onnx.helper.make_opsetid("", opset)]
        )
        return cls.run_model(onnx.shape_inference.infer_shapes(model), arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether ``device`` ("CPU", "CPU:0") is the CPU."""
        return device.split(":")[0] == "CPU"


is_compatible = CnngraphBackend.is_compatible
prepare = CnngraphBackend.prepare
run_model = CnngraphBackend.run_model
run_node = CnngraphBackend.run_node
supports_device = CnngraphBackend.supports_device
