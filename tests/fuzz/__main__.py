"""``python -m tests.fuzz``: fuzz operators for a bounded time and print a table.

Without --op every operator gets its share of the time. Each is compared with onnxruntime through the references (fast), and
through compiled programs of every instruction set this machine runs (a second or more for each kernel). The exit code is 1
if anything disagrees that tests/fuzz/known_differences.py does not explain.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings

from tests.fuzz import families  # noqa: F401  registers every strategy
from tests.fuzz.case import STRATEGIES
from tests.fuzz.runner import Report, check_compiled, check_references, fuzz, save

ROUND = 200
"""Cases that hypothesis draws at a time."""

TURN = 3.0
"""Least number of seconds for the compiled cases of one operator in turn: about a kernel or two."""


def against_onnxruntime(report: Report, seconds: float, number: int, most: int) -> None:
    """Compare the references of one operator with onnxruntime."""
    end, rounds = time.monotonic() + seconds, 0
    while not report.found and report.cases < most and (left := end - time.monotonic()) > 0:
        if fuzz(report.op, min(ROUND, most - report.cases), left, number + rounds, report, check_references):
            break
        rounds += 1


def on_every_isa(reports: list[Report], seconds: float, number: int) -> None:
    """Compare compiled programs with the references, a few cases of each operator in turn, in an order drawn by the seed."""
    end, rounds = time.monotonic() + seconds, 0
    pending = list(reports)
    while pending and time.monotonic() < end:
        random.Random(number + rounds).shuffle(pending)
        for report in list(pending):
            left = end - time.monotonic()
            if left <= 0:
                return
            found = len(report.found)
            fuzz(
                report.op, ROUND, min(left, max(TURN, seconds / len(reports))), number + rounds, report, check_compiled, for_compiling=True
            )
            if len(report.found) > found:
                pending.remove(report)
        rounds += 1


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="time in all; shrinking a disagreement may add to it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--op", action="append", help="only this operator; may be repeated; Conv* matches names that begin so")
    parser.add_argument("--compiled", type=float, default=0.5, help="share of the time for compiled programs, 0 to 1")
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many cases of each operator against onnxruntime")
    parser.add_argument("--save", help="folder for the shrunken models and arrays of disagreements")
    parser.add_argument("--verbose", action="store_true", help="also say what was refused, and what is onnxruntime's own")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    wanted = args.op or ["*"]
    ops = [op for op in sorted(STRATEGIES) if any(op == w or (w.endswith("*") and op.startswith(w[:-1])) for w in wanted)]
    if not ops:
        parser.error(f"no operator is called {', '.join(wanted)}")
    reports = [Report(op) for op in ops]
    end = time.monotonic() + args.seconds * (1 - args.compiled)
    for index, report in enumerate(reports):
        against_onnxruntime(report, max(end - time.monotonic(), 0.05) / (len(ops) - index), args.seed, args.cases)
    on_every_isa(reports, args.seconds * args.compiled, args.seed)
    failed = 0
    print(f"{'operator':44} {'cases':>7} {'against':>7} {'compiled':>8} {'theirs':>7} {'refused':>7} {'found':>5}")
    for report in reports:
        columns = (
            report.cases,
            report.against,
            report.compiled.total(),
            report.explained.total(),
            report.refused.total(),
            len(report.found),
        )
        print(f"{report.op:44} {columns[0]:7} {columns[1]:7} {columns[2]:8} {columns[3]:7} {columns[4]:7} {columns[5]:5}")
        for number, found in enumerate(report.found):
            failed += 1
            print(f"    {found}")
            if args.save:
                print(f"    saved as {save(found, args.save, number)}")
        if args.verbose:
            print(f"    {dict(report.compiled)}")
            for title, counter in (("refused", report.refused), ("theirs", report.explained), ("onnxruntime lacks", report.lacking)):
                for reason, count in counter.most_common(8):
                    print(f"    {title} {count}x: {reason}")
    print(f"{failed} disagreements")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
