"""``python -m tests.fuzz``: fuzz operators for a bounded time and print a table.

Without --op every operator gets its share of the time. Each is compared with onnxruntime through the references (fast), and
through compiled programs of every instruction set this machine runs (a second or more for each kernel). The exit code is 1
if anything disagrees that tests/fuzz/known_differences.py does not explain.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

from tests.fuzz import families  # noqa: F401  registers every strategy
from tests.fuzz.case import STRATEGIES
from tests.fuzz.runner import Report, check_compiled, check_references, fuzz, save

ROUND = 200
"""Cases that hypothesis draws at a time."""


def run_operator(op: str, seconds: float, share: float, number: int, most: int) -> Report:
    """Fuzz one operator; ``share`` of the time goes to compiled programs."""
    report = Report(op)
    end = time.monotonic() + seconds * (1 - share)
    rounds = 0
    while not report.found and report.cases < most and (left := end - time.monotonic()) > 0:
        if fuzz(op, min(ROUND, most - report.cases), left, number + rounds, report, check_references):
            break
        rounds += 1
    end, rounds = time.monotonic() + seconds * share, 0
    found = len(report.found)
    while share and len(report.found) == found and (left := end - time.monotonic()) > 0:
        if fuzz(op, ROUND, left, number + rounds, report, check_compiled, for_compiling=True):
            break
        rounds += 1
    return report


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
    print(f"{'operator':44} {'cases':>7} {'against':>7} {'compiled':>8} {'theirs':>7} {'refused':>7} {'found':>5}")
    end, failed = time.monotonic() + args.seconds, 0
    for index, op in enumerate(ops):
        report = run_operator(op, max(end - time.monotonic(), 0.05) / (len(ops) - index), args.compiled, args.seed, args.cases)
        columns = (
            report.cases,
            report.against,
            report.compiled.total(),
            report.explained.total(),
            report.refused.total(),
            len(report.found),
        )
        print(f"{op:44} {columns[0]:7} {columns[1]:7} {columns[2]:8} {columns[3]:7} {columns[4]:7} {columns[5]:5}", flush=True)
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
