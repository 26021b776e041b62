"""The emulated tile unit, built once."""

from __future__ import annotations

import pytest

from tests.tiles.support import Unit


@pytest.fixture(scope="session")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Unit:
    """The library of ``unit.c``, and processes that run with it."""
    return Unit(tmp_path_factory.mktemp("tile_unit"))
