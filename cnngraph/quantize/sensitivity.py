"""Which operators must stay float so that a wanted accuracy is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One quantised network that was evaluated: how many operators stayed float, and its accuracy in percent."""

    excluded: int
    accuracy: float


@dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes:
        exclude: names of operators that stay float.
        accuracy: with these, in percent.
        trials: in order.
        reached: whether the wanted accuracy is kept; False only if even the float network lacks it.
    """

    exclude: tuple[str, ...]
    accuracy: float
    trials: tuple[Trial, ...]
    reached: bool


def search(
    ranked: Sequence[str],
    evaluate: Callable[[Sequence[str]], float],
    wanted: float,
    *,
    most_trials: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Search:
    """A short list of operators to leave float.

    First the least number of operators from the front of ``ranked`` (most sensitive first) is found by bisection. Then each of
    them, least sensitive first, is made integer again if the accuracy allows it.

    Args:
        ranked: names, most sensitive first.
        evaluate: the accuracy in percent when these names stay float.
        wanted: the least accuracy to accept.
        most_trials: bound on evaluations.
        progress: called with the number of evaluations made.
    """
    trials: list[Trial] = []

    def accuracy(names: Sequence[str]) -> float:
        found = evaluate(names)
        trials.append(Trial(len(names), found))
        if progress is not None:
            progress(len(trials))
        return found

    best, reached = accuracy(()), True
    chosen: tuple[str, ...] = ()
    if best < wanted:
        low, high, best_high = 0, len(ranked), accuracy(tuple(ranked))
        reached = best_high >= wanted
        step = 1
        while reached and high - low > 1 and len(trials) < most_trials:
            middle = min(low + step, (low + high) // 2) if high == len(ranked) else (low + high) // 2
            found = accuracy(tuple(ranked[:middle]))
            if found >= wanted:
                high, best_high = middle, found
            else:
                low, step = middle, step * 2
        chosen, best = tuple(ranked[:high]), best_high
        for name in reversed(chosen):
            if not reached or len(chosen) == 1 or len(trials) >= most_trials:
                break
            fewer = tuple(other for other in chosen if other != name)
            found = accuracy(fewer)
            if found >= wanted:
                chosen, best = fewer, found
    return Search(chosen, best, tuple(trials), reached)
