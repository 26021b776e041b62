"""Turn a template function into the source of one kernel.

A template is a legal Python function. The specialiser

* replaces upper-case names that stand in ``constants`` (or are module-level integers of the template's file) by their
  values and folds what becomes constant; an upper-case argument that is not in ``constants`` stays an argument;
* drops the branches of ``if CONSTANT:`` that cannot be taken;
* unrolls ``for i in unroll(n)`` (or ``unroll(start, stop)``), ``i`` becoming a number;
* turns ``acc = registers(m, n)`` into nothing and ``acc[i, j]`` into the scalar ``acc_i_j``;
* inlines statement calls of helper functions that were passed in ``helpers``;
* replaces ``v = epilogue(value, image, inner, channel)`` by the expression's instructions. A fifth argument counts the lanes
  that exist, for the end of a row; with the constant ``CHANNEL_SCALAR`` a vector lies within one channel;
* replaces ``ask_operands(image, inner)`` by prefetches of the operands that such an epilogue loads there;
* replaces ``v = expression(operands)``, ``operands`` a register array, by the instructions of the whole expression;
  ``long_expression`` takes scalars of int64.

Example: ``for i in unroll(2): acc[i] = fma(load(w, i * W), x, acc[i])`` with ``W=16`` becomes::

    acc_0 = fma(load(w, 0), x, acc_0)
    acc_1 = fma(load(w, 16), x, acc_1)
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from cnngraph.errors import InternalError
from cnngraph.kernels.operands import IMAGE_CHANNEL, PARAMETER_SUFFIXES, PER_CHANNEL, SCALAR
from cnngraph.ops.expression import Expression

VECTOR_NAMES = {"min": "minimum", "max": "maximum", "abs": "absolute", "pow": "power", "round": "round_even"}
"""Scalar functions whose vector form has another name, because Python's own means integers in a template."""

EXPRESSIONS = {"expression": "", "long_expression": "long_"}
"""Calls that stand for the whole expression, and what the names of its functions begin with."""

_IN_ORDER = frozenset(("celu", "elu", "selu", "tanh"))
"""Functions that the compiler would compute for all vectors of a register tile side by side, with hundreds of spilled registers: 1.8 times
the time of LeNet-5's second convolution. Their epilogues begin behind the store of the one before (``in_order``). Others gain nothing."""

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


_SHARED = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
"""Nodes without contents, of which Python itself has one each."""


def _clone(node: Any) -> Any:
    """A copy of a tree without its line numbers."""
    if isinstance(node, _SHARED):
        return node
    if isinstance(node, ast.AST):
        return type(node)(**{field: _clone(getattr(node, field)) for field in node._fields if hasattr(node, field)})
    return [_clone(item) for item in node] if isinstance(node, list) else node


@cache
def _parse(function: Callable[..., Any]) -> ast.FunctionDef:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    definition = _clone(tree.body[0])
    assert isinstance(definition, ast.FunctionDef)
    return definition


def parameters(function: Callable[..., Any]) -> list[tuple[str, str]]:
    """(name, annotation) of each argument of a template function, without ``args``, ``tid`` and ``threads``, e.g. ("x", "F32Pointer")."""
    arguments = [(a.arg, ast.unparse(a.annotation) if a.annotation else "int") for a in _parse(function).args.args]
    return [pair for pair in arguments if pair[0] not in ("tid", "threads", "args")]


def operand_parameters(kinds: Sequence[int]) -> list[tuple[str, str]]:
    """The parameters that epilogue operands add to a template function: a pointer, and a batch stride where it varies by image."""
    out = []
    for i, kind in enumerate(kinds):
        out.append((f"e{i}", "F32Pointer"))
        out.extend((f"e{i}{suffix}", "int") for suffix in PARAMETER_SUFFIXES[kind])
    return out


def specialize(
    function: Callable[..., Any],
    constants: Mapping[str, int],
    *,
    helpers: Mapping[str, Callable[..., Any]] | None = None,
    expression: Expression | None = None,
    operand_kinds: Sequence[int] = (),
) -> list[ast.stmt]:
    """The specialised statements of ``function``'s body, docstring left out.

    Raises:
        InternalError: a register is indexed, or a loop unrolled, by something that is no constant.
    """
    body = _parse(function).body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    arguments = {name for name, _ in parameters(function)}
    scopes = [f.__globals__ for f in (*(helpers or {}).values(), function)]
    named = {k: v for scope in scopes for k, v in scope.items() if k.isupper() and isinstance(v, int) and k not in arguments}
    worker = _Specializer({**named, **constants}, dict(helpers or {}), expression, tuple(operand_kinds))
    out = worker.block(body)
    _give_lines(out)
    return out


def _give_lines(statements: Sequence[ast.stmt]) -> None:
    """Give every statement a line number, which ``ast.unparse`` asks for."""
    for statement in statements:
        statement.lineno = 1
        for inner in ("body", "orelse"):
            _give_lines(getattr(statement, inner, ()))


class _Specializer(ast.NodeTransformer):
    """Makes new nodes and leaves the template's as they are, so that a body can be specialised any number of times."""

    def __init__(
        self, constants: dict[str, Any], helpers: dict[str, Callable[..., Any]], expression: Expression | None, kinds: tuple[int, ...]
    ) -> None:
        self.constants = constants
        self.helpers = helpers
        self.expression = expression
        self.kinds = kinds
        self.registers: set[str] = set()

    # statements

    def block(self, statements: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Specialise statements."""
        out: list[ast.stmt] = []
        for statement in statements:
            out.extend(self.statement(statement))
        return out

    def statement(self, node: ast.stmt) -> list[ast.stmt]:
        """The specialised statements in place of one: none, itself, or an unrolled loop, a branch, a helper's body, an expression."""
        if isinstance(node, ast.For):
            return self._for(node)
        if isinstance(node, ast.If):
            return self._if(node)
        if isinstance(node, ast.While):
            return [ast.While(self.visit(node.test), self.block(node.body), [])]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            called = node.value.func.id
            if called == "registers":
                self.registers.add(self._target_name(node))
                return []
            if called in EXPRESSIONS:
                return self._whole_expression(self.visit(node.targets[0]), node.value.args[0], EXPRESSIONS[called])
            if called == "epilogue":
                return self._epilogue(self.visit(node.targets[0]), [self.visit(a) for a in node.value.args])
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            if node.value.func.id == "ask_operands":
                return self._ask_operands(*(self.visit(a) for a in node.value.args))
            helper = self.helpers.get(node.value.func.id)
            if helper is not None:
                return self._inline(helper, node.value)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return []
        return [self.visit(node)]

    def _for(self, node: ast.For) -> list[ast.stmt]:
        call = node.iter
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "unroll":
            bounds = [self._constant(self.visit(a), "unroll bound") for a in call.args]
            assert isinstance(node.target, ast.Name)
            name, saved = node.target.id, self.constants.get(node.target.id)
            out = []
            for value in range(*bounds):
                self.constants[name] = value
                out.extend(self.block(node.body))
            self.constants.pop(name, None)
            if saved is not None:
                self.constants[name] = saved
            return out
        body = self.block(node.body)
        return [ast.For(_clone(node.target), self.visit(node.iter), body, [])] if body else []

    def _if(self, node: ast.If) -> list[ast.stmt]:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return self.block(node.body if test.value else node.orelse)
        body, other = self.block(node.body), self.block(node.orelse)
        return [ast.If(test, body or [ast.Pass()], other)]

    def _inline(self, helper: Callable[..., Any], call: ast.Call) -> list[ast.stmt]:
        definition = _parse(helper)
        names = [a.arg for a in definition.args.args]
        given: dict[str, ast.expr] = dict(zip(names, call.args, strict=False))
        given.update({k.arg: k.value for k in call.keywords if k.arg})
        out: list[ast.stmt] = []
        saved = dict(self.constants)
        for name in names:
            if name not in given:
                raise InternalError(f"helper {helper.__name__} lacks argument {name}")
            value = self.visit(given[name])
            if isinstance(value, ast.Constant):
                self.constants[name] = value.value
            elif not (isinstance(value, ast.Name) and value.id == name):
                self.constants.pop(name, None)
                out.append(ast.Assign([ast.Name(name, ast.Store())], value))
            else:
                self.constants.pop(name, None)
        body = definition.body
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]
        out.extend(self.block(body))
        self.constants = saved
        return out

    def _whole_expression(self, target: ast.expr, operands: ast.expr, prefix: str) -> list[ast.stmt]:
        if not isinstance(operands, ast.Name) or operands.id not in self.registers or self.expression is None:
            raise InternalError("expression() takes a register array and needs an expression")
        names: list[ast.expr] = [ast.Name(f"{operands.id}_{i}", ast.Load()) for i in range(self.expression.inputs)]
        return render_expression(self.expression, names, target, prefix)

    def _epilogue(self, target: ast.expr, args: list[ast.expr]) -> list[ast.stmt]:
        value, image, inner, channel, *partial = args
        if self.expression is None or not self.expression.instrs:
            return [ast.Assign([target], value)]
        operands: list[ast.expr] = [_call("in_order", value) if any(i.fn in _IN_ORDER for i in self.expression.instrs) else value]
        for i, kind in enumerate(self.kinds):
            pointer = ast.Name(f"e{i}", ast.Load())
            if kind == SCALAR:
                operands.append(_call("broadcast", pointer, ast.Constant(0)))
            elif kind == PER_CHANNEL:
                operands.append(_call("broadcast" if self.constants.get("CHANNEL_SCALAR") else "load", pointer, channel))
            else:
                address = self._place(i, image, channel if kind == IMAGE_CHANNEL else inner)
                if kind == IMAGE_CHANNEL and self.constants.get("CHANNEL_SCALAR"):
                    operands.append(_call("broadcast", pointer, address))
                elif partial:
                    operands.append(_call("load_partial", pointer, address, partial[0]))
                else:
                    operands.append(_call("load", pointer, address))
        return render_expression(self.expression, operands, target)

    def _ask_operands(self, image: ast.expr, inner: ast.expr) -> list[ast.stmt]:
        whole = [i for i, kind in enumerate(self.kinds) if kind not in (SCALAR, PER_CHANNEL, IMAGE_CHANNEL)]
        return [ast.Expr(_call("prefetch", ast.Name(f"e{i}", ast.Load()), self._place(i, image, inner))) for i in whole]

    def _place(self, number: int, image: ast.expr, inner: ast.expr) -> ast.expr:
        """Where an operand of the epilogue has what belongs to an image."""
        base = ast.BinOp(_clone(image), ast.Mult(), ast.Name(f"e{number}_batch", ast.Load()))
        return self.visit(ast.BinOp(base, ast.Add(), _clone(inner)))

    # expressions

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """A new node whose parts are specialised."""
        return type(node)(**{field: self._part(getattr(node, field)) for field in node._fields if hasattr(node, field)})

    def _part(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._part(item) for item in value]
        return self.visit(value) if isinstance(value, ast.AST) and not isinstance(value, _SHARED) else value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and node.id in self.constants:
            return ast.Constant(self.constants[node.id])
        return ast.Name(node.id, node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in self.registers:
            index = self.visit(node.slice)
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            numbers = [self._constant(p, f"register index of {node.value.id}") for p in parts]
            return ast.Name("_".join([node.value.id, *map(str, numbers)]), node.ctx)
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        left, right = self.visit(node.left), self.visit(node.right)
        fold = _BINARY.get(type(node.op))
        if fold is not None and isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
            return ast.Constant(fold(left.value, right.value))
        if isinstance(node.op, (ast.Add, ast.Sub)) and isinstance(right, ast.Constant) and right.value == 0:
            return left
        if isinstance(node.op, ast.Add) and isinstance(left, ast.Constant) and left.value == 0:
            return right
        if isinstance(node.op, ast.Mult):
            for a, b in ((left, right), (right, left)):
                if isinstance(a, ast.Constant) and a.value == 1:
                    return b
                if isinstance(a, ast.Constant) and a.value == 0:
                    return ast.Constant(0)
        return ast.BinOp(left, node.op, right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand)
        if isinstance(operand, ast.Constant):
            if isinstance(node.op, ast.Not):
                return ast.Constant(not operand.value)
            if isinstance(node.op, ast.USub):
                assert isinstance(operand.value, (int, float))
                return ast.Constant(-operand.value)
        return ast.UnaryOp(node.op, operand)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        left, rights = self.visit(node.left), [self.visit(c) for c in node.comparators]
        fold = _COMPARE.get(type(node.ops[0]))
        if len(rights) == 1 and fold is not None and isinstance(left, ast.Constant) and isinstance(rights[0], ast.Constant):
            return ast.Constant(fold(left.value, rights[0].value))
        return ast.Compare(left, node.ops, rights)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        values = [self.visit(v) for v in node.values]
        stops = isinstance(node.op, ast.Or)
        kept = []
        for value in values:
            if isinstance(value, ast.Constant):
                if bool(value.value) is stops:
                    return ast.Constant(stops)
                continue
            kept.append(value)
        if not kept:
            return ast.Constant(not stops)
        return kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self.visit(node.test)
        if isinstance(test, ast.Constant):
            return self.visit(node.body if test.value else node.orelse)
        return ast.IfExp(test, self.visit(node.body), self.visit(node.orelse))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        args = [self.visit(a) for a in node.args]
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max") and all(isinstance(a, ast.Constant) for a in args):
            chosen = min if node.func.id == "min" else max
            return ast.Constant(chosen(a.value for a in args if isinstance(a, ast.Constant) and isinstance(a.value, int)))
        return ast.Call(_clone(node.func), args, _clone(node.keywords))

    @staticmethod
    def _target_name(node: ast.Assign) -> str:
        target = node.targets[0]
        assert isinstance(target, ast.Name)
        return target.id

    @staticmethod
    def _constant(node: ast.expr, what: str) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise InternalError(f"{what} is no constant: {ast.unparse(node)}")


def _call(name: str, *args: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [_clone(a) for a in args], [])


def render_expression(expression: Expression, operands: Sequence[ast.expr], target: ast.expr, prefix: str = "") -> list[ast.stmt]:
    """Statements that assign ``expression`` of ``operands`` to ``target``, a call per instruction, of vectors if there is no ``prefix``."""
    if not expression.instrs:
        return [ast.Assign([target], operands[0])]
    uses = [0] * (expression.inputs + len(expression.instrs))
    for instr in expression.instrs:
        for argument in instr.args:
            uses[argument] += 1
    out: list[ast.stmt] = []
    values: list[ast.expr] = []
    for i, operand in enumerate(operands):
        if uses[i] > 1 and not isinstance(operand, ast.Name):
            out.append(ast.Assign([ast.Name(f"in{i}", ast.Store())], operand))
            operand = ast.Name(f"in{i}", ast.Load())
        values.append(operand)
    for i, instr in enumerate(expression.instrs):
        name = prefix + instr.fn if prefix else VECTOR_NAMES.get(instr.fn, instr.fn)
        value: ast.expr = _call(name, *(values[a] for a in instr.args), *(_number(p) for p in instr.params))
        last = i == len(expression.instrs) - 1
        if not last and uses[expression.inputs + i] > 1:
            out.append(ast.Assign([ast.Name(f"t{i}", ast.Store())], value))
            value = ast.Name(f"t{i}", ast.Load())
        values.append(value)
    return [*out, ast.Assign([target], values[-1])]


def _number(value: float) -> ast.expr:
    if value == float("inf") or value == float("-inf"):
        return ast.Constant(3.0e38 * 10 if value > 0 else -3.0e38 * 10)
    return ast.Constant(float(value))
