"""Find backends by entry point; the core never imports one by name."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import cast

from cnngraph.errors import UsageError
from cnngraph.kernels.template import Backend

GROUP = "cnngraph.backends"


def available_backends() -> list[str]:
    """Names of the installed backends."""
    return sorted({point.name for point in entry_points(group=GROUP)})


@cache
def get_backend(name: str) -> Backend:
    """The backend called ``name``; UsageError, naming the installed ones, if there is none."""
    for point in entry_points(group=GROUP):
        if point.name == name:
            return cast(Backend, point.load())
    raise UsageError(f"no backend {name!r}; installed: {', '.join(available_backends()) or 'none'}")
