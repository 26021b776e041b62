"""The kernel language as source text for a module that stands alone: the intrinsics' modules, joined into one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from cnngraph_cpu.target import ISAS

MODULES = (
    "simd_half", "simd", "simd_int", "simd_long", "simd_pairs", "simd_permute", "simd_short", "simd_tile", "trigonometric", "functions",
)  # fmt: skip


@cache
def language(isa: str) -> tuple[str, str, dict[str, str]]:
    """(imports, source, environment variables that Numba reads) that define what kernels for ``isa`` may name."""
    info = ISAS[isa]
    imports: dict[str, None] = {}
    target = info.target
    parts = [
        f"""class _Target:
    \"\"\"The instruction set that the kernels are written for.\"\"\"

    isa, width, registers, has_fma = {isa!r}, {target.width}, {target.registers}, {target.has_fma}
    dot, dot2, tiles, float16 = {target.dot}, {target.dot2}, {target.tiles}, {target.float16}


class _Info:
    target, features = _Target, {info.features!r}


ISAS = {{{isa!r}: _Info}}
"""
    ]
    for name in MODULES:
        parts.append(_module(name, imports))
    parts.append(f'globals().update(primitives("{isa}"))\n')
    environment = {"NUMBA_CPU_NAME": info.cpu, "NUMBA_CPU_FEATURES": info.features}
    return "\n".join(imports), "\n\n".join(parts), environment


def _module(name: str, imports: dict[str, None]) -> str:
    """A module without its imports of this package; its private names get its name, and its other imports are added to ``imports``."""
    text = (Path(__file__).parent / f"{name}.py").read_text("utf-8")
    tree = ast.parse(text)
    lines = text.splitlines()
    keep = [True] * len(lines)
    private = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if not module.startswith("cnngraph") and module != "__future__":
                imports.setdefault(ast.unparse(node))
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                keep[number] = False
    for top in tree.body:
        if isinstance(top, (ast.FunctionDef, ast.ClassDef)):
            private.add(top.name)
        elif isinstance(top, (ast.Assign, ast.AnnAssign)):
            targets = top.targets if isinstance(top, ast.Assign) else [top.target]
            private |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
    summary = (ast.get_docstring(tree) or "").splitlines()
    first = tree.body[0]
    if summary:
        for number in range(first.lineno - 1, first.end_lineno or first.lineno):
            keep[number] = False
    body = "\n".join(line for line, kept in zip(lines, keep, strict=True) if kept).strip("\n")
    for old in sorted(n for n in private if n.startswith("_")):
        body = re.sub(rf"(?<![\w.]){old}\b", f"{old}_{name}", body)
    return "\n".join([f"# {line}".rstrip() for line in summary]) + "\n\n\n" + body + "\n"
