"""The machine code of the tile kernels, executed instruction by instruction: results, and instructions as planned."""

from __future__ import annotations

import pytest

from tests.backends.test_conv_tiles_kernel import CASES, HALVES, INTEGER_CASES
from tests.tiles.support import Unit, needs_emulation

pytestmark = needs_emulation


def test_one_case_of_each_kernel(unit: Unit) -> None:
    answer = unit.call("kernels.some")
    assert answer["cases"] == 6 and answer["products"] > 100


@pytest.mark.slow
def test_every_case(unit: Unit) -> None:
    answer = unit.call("kernels.every")
    assert answer["cases"] == len(CASES) + len(HALVES) + len(INTEGER_CASES)


@pytest.mark.slow
def test_convolutions_drawn_at_random(unit: Unit) -> None:
    assert unit.call("kernels.drawn", 7, 60)["cases"] == 60
