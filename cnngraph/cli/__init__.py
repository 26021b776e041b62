"""The command ``cnngraph``: one verb a file.

Exit status: 0 success, 1 a check failed or the input is invalid, 2 usage, 3 unsupported, 4 a limit was exceeded, 130 interrupted.
Standard output carries the result and nothing else; progress and errors go to standard error.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

import cnngraph
from cnngraph.cli.errors import report_error

# Verb -> one line of help. The verb's module is imported only when it runs, so that help and completion are instant.
VERBS = {
    "compile": "Compile an ONNX model to an artifact, or to readable kernel sources.",
    "run": "Run a model on arrays, images or generated inputs.",
    "bench": "Time a model, alone or against other engines, interleaved.",
    "profile": "Time every step of a model.",
    "summary": "Layers, parameters, multiply-adds and memory of a model.",
    "inspect": "What a model file or an artifact contains.",
    "explain": "Why each node was fused or not, and got the kernel it has.",
    "compare": "What a precision costs: the error of every tensor.",
    "quantize": "Quantise a model to 8 bits with scales from sample data.",
    "quant-report": "What 8 bits cost, layer by layer, and which layers to leave float.",
    "models": "List or build the classic networks.",
    "ops": "Which ONNX operators are supported, in which operator sets.",
    "cache": "Look at, check or shrink the cache of compiled kernels.",
    "doctor": "Versions, instruction sets, threads and folders on this machine.",
}


class Verbs(click.Group):
    """A group that imports a command when it is asked for and turns every error into one message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the help text."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of the verb, or None."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"cnngraph.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> Any:
        """Run the command line and exit the process."""
        arguments = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            result = super().main(arguments, prog_name or "cnngraph", **extra)
        except BaseException as error:  # the last line of defence: every failure becomes one message and an exit status
            sys.exit(report_error(error, arguments))
        sys.exit(result if isinstance(result, int) else 0)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(cnngraph.__version__, prog_name="cnngraph")
def cli() -> None:
    """Compile convolutional networks from ONNX into specialised machine code, and run them.

    Every verb takes --json. Set CNNGRAPH_DEBUG=1 to see the traceback of an unexpected error.
    """


def main() -> None:
    """Entry point of the console script."""
    cli.main()
