"""Tests of the CUDA backend need it installed; those of its compiler also need the packages of ``cnngraph[cuda]``."""

from __future__ import annotations

import pytest

from cnngraph.backends import available_backends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip everything here, with a reason, where the backend is not an installed entry point."""
    if "cuda" in available_backends():
        return
    skip = pytest.mark.skip(reason="the backend 'cuda' is not installed; pip install -e .")
    for item in items:
        if "tests/cuda" in str(item.path):
            item.add_marker(skip)
