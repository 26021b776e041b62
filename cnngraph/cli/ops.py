"""``cnngraph ops``: the operators that are supported."""

from __future__ import annotations

from typing import Any

import click

from cnngraph.cli.output import emit, json_option, table

_AT_RUN_TIME = {
    "tail": "computed at once if its inputs are known, of sequences their lengths; else after the compiled part, with all that reads it",
    "control flow": "unrolled if conditions and trip counts are known; else after the compiled part, with all that reads it",
}


@click.command("ops")
@click.option("--backend", default="cpu", show_default=True, metavar="NAME", help="An installed backend.")
@click.option("--isa", metavar="NAME", help="Instruction set; default: the best of this machine.")
@click.option("--filter", "text", metavar="TEXT", help="Only operators whose name contains this.")
@json_option
def command(backend: str, isa: str | None, text: str | None, as_json: bool) -> None:
    """List the ONNX operators, the operator sets in which each is supported, and how they run.

    How a model's operator is imported: "importer" makes it nodes of the graph, "function body" imports the function by which ONNX
    defines it, "control flow" imports the branch taken and the iterations, "tail" leaves it to run time.

    Every operator has a NumPy reference. The backend's column is found out by compiling one small float32 sample of each, up to
    the choice of kernels: "kernel" is generated code, "alias" and "folded" need no code at all, "numpy" runs the reference. "tail"
    is evaluated by NumPy, node by node, after the compiled part.
    """
    from cnngraph.backends import get_backend
    from cnngraph.cli.coverage import execution
    from cnngraph.frontend.operators import OpSupport, imported_ops

    get_backend(backend).target(isa)
    support: dict[str, list[OpSupport]] = {}
    for row in imported_ops():
        if text is None or text.lower() in row.op.lower():
            support.setdefault(row.op, []).append(row)
    entries: list[dict[str, Any]] = []
    for op, rows in support.items():
        how = rows[0].how
        runs, detail = ("tail", _AT_RUN_TIME[how]) if how in _AT_RUN_TIME else execution(op, backend, isa)
        if how == "function body" and runs == "unsupported":
            continue  # the function calls what has no importer itself
        span = {"since": rows[0].since, "until": rows[-1].until}
        entries.append({"op": op, **span, "how": how, "reference": True, backend: runs, "detail": detail})

    def show() -> None:
        table(
            None,
            ["operator", "operator sets", "how", backend, "kernels, or why there are none"],
            [[e["op"], f"{e['since']}-{e['until']}", e["how"], e[backend], e["detail"]] for e in entries],
        )

    emit("ops", {"backend": backend, "operators": entries}, as_json, show)
