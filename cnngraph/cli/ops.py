"""``cnngraph ops``: the operators that are supported."""

from __future__ import annotations

from typing import Any

import click

from cnngraph.cli.output import emit, json_option, table


@click.command("ops")
@click.option("--backend", default="cpu", show_default=True, metavar="NAME", help="An installed backend.")
@click.option("--isa", metavar="NAME", help="Instruction set; default: the best of this machine.")
@click.option("--filter", "text", metavar="TEXT", help="Only operators whose name contains this.")
@json_option
def command(backend: str, isa: str | None, text: str | None, as_json: bool) -> None:
    """List the ONNX operators, the operator sets in which each is supported, and how they run.

    Every operator has a NumPy reference. The backend's column is found out by compiling one small float32 sample of each, up to
    the choice of kernels: "kernel" is generated code, "alias" and "folded" need no code at all, "numpy" runs the reference.
    """
    from cnngraph.backends import get_backend
    from cnngraph.cli.coverage import execution
    from cnngraph.frontend import shape_only_ops, supported_ops

    get_backend(backend).target(isa)
    ranges: dict[str, list[tuple[int, int]]] = {}
    for row in supported_ops():
        if text is None or text.lower() in row.op.lower():
            ranges.setdefault(row.op, []).append((row.since, row.until))
    entries: list[dict[str, Any]] = []
    for op, spans in ranges.items():
        how, detail = execution(op, backend, isa)
        entries.append({"op": op, "since": spans[0][0], "until": spans[-1][1], "reference": True, backend: how, "detail": detail})
    shapes = [op for op in shape_only_ops() if text is None or text.lower() in op.lower()]

    def show() -> None:
        table(
            None,
            ["operator", "operator sets", "reference", backend, "kernels, or why there are none"],
            [[e["op"], f"{e['since']}-{e['until']}", "yes", e[backend], e["detail"]] for e in entries],
        )
        if shapes:
            click.echo(f"Only where they compute shapes: {', '.join(shapes)}")

    emit("ops", {"backend": backend, "operators": entries, "shape_only": shapes}, as_json, show)
