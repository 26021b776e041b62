"""Every failure of the command line becomes one message, with ``--json`` also one object, and an exit status."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Sequence

import click

from cnngraph.errors import CnngraphError, UnsupportedError, printable

SCHEMA = 1
INTERRUPTED = 130
LIMIT = 4


def report_error(error: BaseException, arguments: Sequence[str]) -> int:
    """Print ``error`` and return the exit status; ``arguments`` is the command line, to see whether it asks for JSON."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        # The reader of a pipe has gone; the interpreter must not complain about it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    message, code = _describe(error)
    if "--json" in arguments:
        verb = next((a for a in arguments if not a.startswith("-")), None)
        described = {"type": type(error).__name__, "message": message, "node": getattr(error, "node", None), "exit_code": code}
        if isinstance(error, UnsupportedError):
            described["problems"] = [{"node": p.node, "op": p.op, "reason": p.reason} for p in error.problems]
        click.echo(json.dumps({"schema": SCHEMA, "command": verb, "error": described}))
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    click.echo(f"error: {message}", err=True)
    return code


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, CnngraphError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, MemoryError):
        return "out of memory", LIMIT
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"'{printable(error.filename)}': {error.strerror}", 1
    if os.environ.get("CNNGRAPH_DEBUG") == "1":
        traceback.print_exception(error)
        hint = ""
    else:
        hint = " (unexpected; CNNGRAPH_DEBUG=1 shows where)"
    return f"{type(error).__name__}: {printable(str(error), 500)}{hint}", 1
