"""Runs one task in a process with the emulated tile unit: ``python -m tests.tiles.child TASK ARGUMENTS``, both JSON but the name."""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """The task ``module.function`` of this folder; its answer is the last line of output."""
    module, _, name = sys.argv[1].partition(".")
    answer = getattr(importlib.import_module(f"tests.tiles.{module}"), name)(*json.loads(sys.argv[2]))
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main()
