"""Numba's way from generated sources to machine code, made short.

Generated sources are long straight lines of assignments to numbers, vectors and pointers, for which Numba's front end takes longer than
LLVM. So only the passes run that such sources need (:data:`SHORT`), and the types of a call are resolved once for each combination of
operand types (:func:`remember_signatures`: in 2 of 100 calls) instead of for each call. The object code is the same, but for the order of
a few instructions, in less than half the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numba import typeof
from numba.core import ir
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompilerBase, PassManager
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.errors import TypingError
from numba.core.typed_passes import AnnotateTypes, NativeLowering, NoPythonBackend, NopythonTypeInference, PreLowerStripPhis
from numba.core.types.functions import BaseFunction
from numba.core.types.misc import unliteral
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode


def remember_signatures() -> None:
    """Let Numba keep what it resolves a call's types to, by function and operand types, of which its answer is made."""
    resolve = BaseFunction.get_call_type

    def get_call_type(self: BaseFunction, context: Any, args: tuple[Any, ...], kws: Mapping[str, Any]) -> Any:
        known = self.__dict__.setdefault("_cnngraph_known", {})
        key = (args, tuple(kws.items()))
        if key not in known:
            known[key] = resolve(self, context, args, kws)
        return known[key]

    BaseFunction.get_call_type = get_call_type  # type: ignore[method-assign]


def align_stacks() -> None:
    """Let functions begin their stacks at a cache line.

    LLVM aligns spilled vectors only if it knew before it allocated registers that there would be any. Left to where the caller's stack
    happens to end, half of them straddle two lines: the same convolution took 63, 71, 79, 87 or 101 us by process (8x8 taps, Zen 4), and
    takes 56 with this.
    """
    add = CPUCodeLibrary.add_ir_module

    def add_ir_module(self: CPUCodeLibrary, module: Any) -> None:
        for function in module.functions:
            if not function.is_declaration:
                function.attributes.alignstack = 64
        add(self, module)

    CPUCodeLibrary.add_ir_module = add_ir_module


@register_pass(mutates_CFG=False, analysis_only=True)
class RequireOneType(AnalysisPass):
    """Refuses names that are given values of two types, which would all be converted to a third."""

    _name = "require_one_type"

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        """Compare each assigned value with its name."""
        for block in state.func_ir.blocks.values():
            for assignment in block.find_insts(ir.Assign):
                value, wanted = assignment.value, state.typemap[assignment.target.name]
                if isinstance(value, ir.Var):
                    given = state.typemap[value.name]
                elif isinstance(value, ir.Const):
                    given = typeof(value.value)
                elif isinstance(value, ir.Expr) and state.calltypes.get(value) is not None:
                    given = state.calltypes[value].return_type
                else:
                    continue
                if unliteral(given) != unliteral(wanted):
                    raise TypingError(f"{assignment.target.name} is {wanted} and {given}", assignment.loc)
        return False


def _pipeline(*passes: type[Any]) -> type[Any]:
    """A class for Numba's ``pipeline_class``."""

    def define_pipelines(self: Any) -> list[Any]:
        manager = PassManager("kernel")
        for entry in passes:
            manager.add_pass(entry, entry.__name__)
        manager.finalize()
        return [manager]

    return type("Pipeline", (CompilerBase,), {"define_pipelines": define_pipelines})


_BEFORE, _AFTER = (TranslateByteCode, FixupArgs, IRProcessing), (AnnotateTypes, NativeLowering, NoPythonBackend)
SHORT = _pipeline(*_BEFORE, NopythonTypeInference, RequireOneType, *_AFTER)
"""There is nothing to inline, rewrite or unroll, nothing counts references, and LLVM makes its own single assignments."""
SINGLE = _pipeline(*_BEFORE, ReconstructSSA, NopythonTypeInference, PreLowerStripPhis, *_AFTER)
"""For sources in which a name has values of two types."""
