"""From a kernel specification to readable Numba-CUDA source.

:func:`cnngraph.kernels.specialize.specialize` unrolls and folds the template; what follows here is particular to the GPU:

* integer arithmetic is narrowed to 32 bits (``a + b`` becomes ``i32(a + b)``), because Numba widens it to 64;
* ``//`` and ``%`` become unsigned operations;
* ``(*v,) = f(...)`` and ``f(*v)`` become scalars ``v_0, v_1, ...``;
* names of operations on the kernel's data type get its suffix: ``load_vector`` is ``ld8_f16`` or ``ld4_f32``;
* ``apply_epilogue(v, image, pixel, channel)`` becomes loads of the operands and the expression's instructions on ``v``; a fifth
  argument is the place within the image of operands of the full size, where that is not ``pixel`` and ``channel``.
  ``load_epilogue(slot, image, pixel, channel)`` and ``finish_epilogue(v, slot)`` are its two halves, for several vectors at a time.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnngraph.errors import InternalError
from cnngraph.kernels.operands import FULL, IMAGE_CHANNEL, PER_CHANNEL, SCALAR
from cnngraph.kernels.specialize import parameters, render_expression, specialize
from cnngraph.kernels.template import KernelSource, KernelSpec
from cnngraph_cuda.primitives import PRIMITIVES, primitives_of

F32, F16, BF16 = 0, 1, 2
"""Values of the constant ``DT``: the type of data in memory."""

KINDS = ("f32", "f16", "bf16", "u8", "i8", "u16", "i16", "u32", "i32", "i64", "u64")
"""Element types in memory, by the values of ``DT``. In registers floats are float32 and integers 64 bits wide."""

FMA, TF32, HALF = 0, 1, 2
"""Values of the constant ``MATH``: float32 multiply-adds, tensor cores in tf32, tensor cores in the data's 16-bit type."""

CP_ASYNC, WEIGHT_BOXES, ROW_BOXES, WINDOW_BOXES = 0, 1, 2, 3
"""Values of the constant ``TMA``: what the tensor memory accelerator copies: nothing, the weights, the pixels too: where they follow each
other in memory, or as the convolution's window moves over them (im2col)."""

_OPERANDS = 6
_POINTERS = {"F32Pointer": "f32", "I32Pointer": "i32", "FlagPointer": "i32", "int": "int"}


@dataclass(frozen=True)
class Code:
    """A template's function, the helpers it inlines, and one line that says what it computes."""

    function: Callable[..., None]
    helpers: Mapping[str, Callable[..., None]]
    summary: str


@dataclass(frozen=True)
class Signature:
    """Parameters of a kernel: name and type ("f32", "f16", "bf16", "i32" for pointers, "map" for tensor maps, "int" for int32)."""

    names: tuple[str, ...]
    types: tuple[str, ...]


def operand_kinds(spec: KernelSpec) -> tuple[int, ...]:
    """Kinds of the epilogue operands, from the constants E0, E1, ... of a specification."""
    table = dict(spec.constants)
    kinds: list[int] = []
    while f"E{len(kinds)}" in table:
        kinds.append(table[f"E{len(kinds)}"])
    return tuple(kinds)


def kernel_name(spec: KernelSpec) -> str:
    """The specification as an identifier: template, architecture, constants, and a short hash of the expression."""
    parts = [spec.template, *spec.isa.split(":")]
    parts += [f"{k.lower()}{'m' if v < 0 else ''}{abs(v)}" for k, v in spec.constants if not (k.startswith("E") and k[1:].isdigit())]
    name = "_".join(parts)
    if spec.expression is not None and spec.expression.instrs:
        kinds = "".join("scfi"[k] for k in operand_kinds(spec))
        functions = "_".join(i.fn for i in spec.expression.instrs[:4])
        digest = hashlib.sha256(repr((spec.expression, kinds)).encode()).hexdigest()[:6]
        name += f"__{functions}_{kinds}{digest}" if kinds else f"__{functions}_{digest}"
    return name


def signature(code: Code, spec: KernelSpec) -> Signature:
    """Every parameter of the specialised kernel, epilogue operands last."""
    data = KINDS[dict(spec.constants).get("DT", F32)]
    table = dict(spec.constants)
    copies = table.get("TMA", CP_ASYNC)
    special = {
        **_POINTERS, "SourcePointer": KINDS[table.get("DS", F32)], "WeightSource": "map" if copies else data,
        "PixelSource": "map" if copies >= ROW_BOXES else data,
    }  # fmt: skip
    special |= {f"Operand{i}": KINDS[table.get(f"T{i}", F32)] for i in range(_OPERANDS)}
    pairs = [(name, special.get(annotation, data)) for name, annotation in parameters(code.function)]
    for i, kind in enumerate(operand_kinds(spec)):
        pairs.append((f"e{i}", "f32" if kind == PER_CHANNEL else data))
        if kind in (FULL, IMAGE_CHANNEL):
            pairs.append((f"e{i}_batch", "int"))
        if kind == FULL:
            pairs.append((f"e{i}_pixel", "int"))
    return Signature(tuple(n for n, _ in pairs), tuple(t for _, t in pairs))


def generate(spec: KernelSpec, code: Code, header: Sequence[str] = ()) -> KernelSource:
    """Source of the kernel for ``spec``. ``header`` lines are comments (already printable)."""
    name = kernel_name(spec)
    constants: dict[str, Any] = dict(spec.constants)
    constants.setdefault("DT", F32)
    constants.setdefault("VL", 4 if constants["DT"] == F32 else 8)
    body = specialize(code.function, constants, helpers=code.helpers, expression=spec.expression)
    worker = _Lowering(spec, constants)
    lowered = worker.block(body)
    for statement in lowered:
        ast.fix_missing_locations(statement)
    kernel = signature(code, spec)
    text = [
        '"""Generated by cnngraph.',
        "",
        code.summary,
        "",
        f"template {spec.template}, target {spec.isa}, " + ", ".join(f"{k}={v}" for k, v in spec.constants),
    ]
    if spec.expression is not None and spec.expression.instrs:
        text.append(f"epilogue {spec.expression}")
    arch = spec.isa.partition(":")[0]
    named = f'"{arch}"' if primitives_of(arch) is not PRIMITIVES else ""
    text += ['"""', "", "from cnngraph_cuda.intrinsics import primitives", "", f"globals().update(primitives({named}))"]
    text += [f"THREADS, BLOCKS = {constants.get('THREADS', 256)}, {constants.get('BLOCKS', 1)}"]
    text += [f'SIGNATURE = "{" ".join(kernel.types)}"', ""]
    text += [f"# {line}" for line in header]
    text += ["", f"def {name}({', '.join(kernel.names)}):"]
    if worker.shared:
        text += [f"    shared = cuda.shared.array(0, words, alignment={1024 if constants.get('GROUP') else 128})"]
    for statement in lowered:
        text += ["    " + line for line in ast.unparse(statement).splitlines()]
    return KernelSource(name, "\n".join(text) + "\n")


class _Lowering:
    """The second half of specialisation; see the module's text."""

    def __init__(self, spec: KernelSpec, constants: Mapping[str, Any]) -> None:
        self._expression = spec.expression
        self._kinds = operand_kinds(spec)
        self._lanes = int(constants["VL"])
        data = KINDS[constants["DT"]]
        source = KINDS[constants.get("DS", F32)]
        math = {TF32: "tf32", HALF: data}.get(constants.get("MATH", FMA), "none")
        self._names = {
            "load_vector": f"ld{self._lanes}_{data}", "store_vector": f"st{self._lanes}_{data}", "load_one": f"ld1_{data}",
            "store_one": f"st1_{data}", "load_floats": f"ld{self._lanes}_f32", "store_floats": f"st{self._lanes}_f32",
            "load_float": "ld1_f32", "store_quad": "st4_f32", "store_float": "st1_f32", "load_source": f"ld1_{source}",
            "load_source_vector": f"ld{self._lanes}_{source}", "mma": f"mma_{math}",
            "store_pair": f"st2_{data}",
            "wgmma": f"wgmma_{math}_{constants.get('WN')}", "wgmma_zeros": f"wgmma_zeros_{constants.get('WN')}",
            "wgmma_wait": f"wgmma_wait_{constants.get('WN')}",
        }  # fmt: skip
        self._operands = [KINDS[constants.get(f"T{i}", F32)] for i in range(_OPERANDS)]
        self._unsigned = "u64" in (data, *self._operands)
        self.shared = False

    def block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Lower statements and those inside them."""
        out: list[ast.stmt] = []
        for statement in statements:
            out.extend(self._statement(statement))
        return out

    def _statement(self, node: ast.stmt) -> list[ast.stmt]:
        if isinstance(node, ast.For):
            assert isinstance(node.iter, ast.Call)
            node.iter.args = [_narrow_constant(self._value(a)) for a in node.iter.args]
            node.body = self.block(node.body)
            return [node]
        if isinstance(node, ast.While):
            node.test, node.body = self._value(node.test), self.block(node.body)
            return [node]
        if isinstance(node, ast.If):
            node.test, node.body, node.orelse = self._value(node.test), self.block(node.body), self.block(node.orelse)
            return [node]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if isinstance(node.value.func, ast.Name) and node.value.func.id == "apply_epilogue":
                vector, *places = node.value.args
                return [*self._epilogue_loads(0, *places), *self._epilogue(vector, 0)]
            if isinstance(node.value.func, ast.Name) and node.value.func.id == "load_epilogue":
                slot, *places = node.value.args
                return self._epilogue_loads(_number(slot), *places)
            if isinstance(node.value.func, ast.Name) and node.value.func.id == "finish_epilogue":
                return self._epilogue(node.value.args[0], _number(node.value.args[1]))
            return [ast.Expr(self._value(node.value))]
        if isinstance(node, ast.Assign):
            value = self._value(node.value)
            target = node.targets[0]
            if isinstance(target, ast.Tuple) and len(target.elts) == 1 and isinstance(target.elts[0], ast.Starred):
                names = self._spread(target.elts[0], self._results(value), ast.Store())
                target = names[0] if len(names) == 1 else ast.Tuple(names, ast.Store())
            return [ast.Assign([target], _narrow_constant(value))]
        raise InternalError(f"a template holds a statement the GPU's language lacks: {ast.unparse(node)}")

    @staticmethod
    def _results(value: ast.expr) -> int:
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in PRIMITIVES:
            return PRIMITIVES[value.func.id].results
        raise InternalError(f"{ast.unparse(value)} has no known number of results")

    @staticmethod
    def _spread(starred: ast.Starred, count: int, context: ast.expr_context) -> list[ast.expr]:
        name = starred.value
        if not isinstance(name, ast.Name):
            raise InternalError(f"{ast.unparse(starred)} is no register array")
        return [ast.Name(f"{name.id}_{i}", context) for i in range(count)]

    def _value(self, node: ast.expr) -> ast.expr:
        """An expression in 32-bit arithmetic."""
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left), self._value(node.right)
            if isinstance(node.op, (ast.FloorDiv, ast.Mod)):
                shift = _power_of_two(right)
                if shift is not None and isinstance(node.op, ast.FloorDiv):
                    return _i32(ast.BinOp(left, ast.RShift(), ast.Constant(shift)))
                if shift is not None:
                    return _i32(ast.BinOp(left, ast.BitAnd(), ast.Constant((1 << shift) - 1)))
                return _call("udiv" if isinstance(node.op, ast.FloorDiv) else "umod", left, right)
            return _i32(ast.BinOp(left, node.op, right))
        if isinstance(node, ast.UnaryOp):
            return _i32(ast.UnaryOp(node.op, self._value(node.operand))) if isinstance(node.op, ast.USub) else node
        if isinstance(node, ast.Compare):
            return ast.Compare(self._value(node.left), node.ops, [self._value(c) for c in node.comparators])
        if isinstance(node, ast.BoolOp):
            return ast.BoolOp(node.op, [self._value(v) for v in node.values])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._call(node, node.func.id)
        return node

    def _call(self, node: ast.Call, name: str) -> ast.expr:
        name = self._names.get(name, name)
        name = f"u{name}" if self._unsigned and f"u{name}" in PRIMITIVES else name
        if name in ("load_operand", "store_operand"):
            return _call(
                f"{'ld' if name == 'load_operand' else 'st'}1_{self._operands[_number(node.args[0])]}",
                *(self._value(a) for a in node.args[1:]),
            )
        if name == "shared_base":
            self.shared = True
            return _call("shared_address", ast.Name("shared", ast.Load()))
        if name == "sync":
            return ast.Call(ast.Attribute(ast.Name("cuda", ast.Load()), "syncthreads", ast.Load()), [], [])
        if name == "cp_wait":
            assert isinstance(node.args[0], ast.Constant)
            return _call(f"cp_wait{node.args[0].value!r}")
        stars = [a for a in node.args if isinstance(a, ast.Starred)]
        if not stars:
            return ast.Call(ast.Name(name, ast.Load()), [self._value(a) for a in node.args], [])
        if name not in PRIMITIVES:
            raise InternalError(f"{name} takes no register arrays")
        counts = _star_counts(name, len(node.args) - len(stars), len(stars))
        arguments: list[ast.expr] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                arguments += self._spread(argument, counts.pop(0), ast.Load())
            else:
                arguments.append(self._value(argument))
        return ast.Call(ast.Name(name, ast.Load()), arguments, [])

    def _operand(self, i: int, slot: int, lane: int, context: ast.expr_context) -> ast.Name:
        """The register of an epilogue operand; what does not depend on the pixel is loaded once for all slots."""
        shared = self._kinds[i] in (SCALAR, PER_CHANNEL)
        return ast.Name(f"o{i}_{lane}" if slot == 0 or shared else f"o{i}s{slot}_{lane}", context)

    def _epilogue_loads(
        self, slot: int, image: ast.expr, pixel: ast.expr, channel: ast.expr, element: ast.expr | None = None
    ) -> list[ast.stmt]:
        expression = self._expression
        if expression is None or not expression.instrs:
            return []
        out: list[ast.stmt] = []

        def load(i: int, function: str, count: int, *parts: ast.expr) -> None:
            place = parts[0]
            for part in parts[1:]:
                place = ast.BinOp(place, ast.Add(), part)
            target: ast.expr = self._operand(i, slot, 0, ast.Store())
            if count > 1:
                target = ast.Tuple([self._operand(i, slot, e, ast.Store()) for e in range(count)], ast.Store())
            out.append(ast.Assign([target], self._value(_call(function, ast.Name(f"e{i}", ast.Load()), place))))

        def times(part: ast.expr, i: int, what: str) -> ast.expr:
            return ast.BinOp(part, ast.Mult(), ast.Name(f"e{i}_{what}", ast.Load()))

        for i, kind in enumerate(self._kinds):
            if kind in (SCALAR, PER_CHANNEL) and slot > 0:
                continue
            if kind == SCALAR:
                load(i, "load_one", 1, ast.Constant(0))
            elif kind == PER_CHANNEL:
                load(i, "load_floats" if self._lanes > 1 else "load_float", self._lanes, channel)
            elif kind == IMAGE_CHANNEL:
                load(i, "load_vector", self._lanes, times(image, i, "batch"), channel)
            elif element is not None:
                load(i, "load_vector", self._lanes, times(image, i, "batch"), element)
            else:
                load(i, "load_vector", self._lanes, times(image, i, "batch"), times(pixel, i, "pixel"), channel)
        return out

    def _epilogue(self, vector: ast.expr, slot: int) -> list[ast.stmt]:
        expression = self._expression
        if expression is None or not expression.instrs:
            return []
        assert isinstance(vector, ast.Name)
        out: list[ast.stmt] = []
        for lane in range(self._lanes):
            name = f"{vector.id}_{lane}"
            operands: list[ast.expr] = [ast.Name(name, ast.Load())]
            operands += [self._operand(i, slot, 0 if kind == SCALAR else lane, ast.Load()) for i, kind in enumerate(self._kinds)]
            out += render_expression(expression, operands, ast.Name(name, ast.Store()))
        return out


def _number(node: ast.expr) -> int:
    assert isinstance(node, ast.Constant) and isinstance(node.value, int)
    return node.value


def _star_counts(name: str, plain: int, stars: int) -> list[int]:
    """How many registers each starred argument stands for."""
    if name.startswith("mma_"):
        return [4, 4, 2]
    if name in ("dot4", "fma4"):
        return [4, 4]
    if name.startswith("wgmma_tf32"):
        return [4]
    total = PRIMITIVES[name].operands - plain
    if stars != 1 or total < 1:
        raise InternalError(f"{name} takes no {stars} register arrays")
    return [total]


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [copy.deepcopy(a) for a in arguments], [])


def _i32(node: ast.expr) -> ast.expr:
    return ast.Call(ast.Name("i32", ast.Load()), [node], [])


def _narrow_constant(node: ast.expr) -> ast.expr:
    """Constants with their 32-bit type, so that a variable does not become 64 bits wide."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return node
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return _i32(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, float):
        return _call("f32", node)
    return node


def _power_of_two(node: ast.expr) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value > 0 and node.value & (node.value - 1) == 0:
        return node.value.bit_length() - 1
    return None
