"""The emulated tile unit: every form of its instructions, their arithmetic, and what they refuse."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.tiles.support import Unit, build, needs_emulation

pytestmark = needs_emulation


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build("probes.c", Path(tmp_path_factory.mktemp("probes")), "-mno-red-zone"))


def test_every_form_of_address(unit: Unit, probes: str) -> None:
    answer = unit.call("probes.addresses", probes)
    configurations, loads = answer["forms"]
    made = answer["made"]
    assert made["configure"] == made["store_config"] == configurations and made["release"] == 1
    assert made["load"] + made["load_t1"] == made["store"] == 4 * loads - 2
    assert made["load_t1"] == 4 + 3


def test_products_equal_those_of_the_plain_unit(unit: Unit, probes: str) -> None:
    assert unit.call("probes.products", probes)["compared"] == 60


def test_what_the_manual_makes_a_fault(unit: Unit, probes: str) -> None:
    answer = unit.call("probes.faults", probes)
    found = {name: tuple(ending) for name, ending in answer["found"].items()}
    assert answer["given"] and answer["caught"] == 1
    assert found.pop("nothing") == (0, "")
    assert found.pop("no tile instruction") == (signal.SIGILL, "")
    reasons = {
        "not asked for": "has not asked", "not configured": "before they are configured", "released": "before they are configured",
        "palette": "no such palette", "reserved": "reserved bytes", "ninth tile": "more tiles", "rows": "impossible tile",
        "width": "impossible tile", "no rows": "impossible tile", "tile without rows": "that is not configured", "shapes": "do not fit",
        "words": "not whole words", "same tile": "three different tiles",
    }  # fmt: skip
    assert {name: ending[0] for name, ending in found.items()} == dict.fromkeys(reasons, signal.SIGABRT)
    assert not {name: ending[1] for name, ending in found.items() if reasons[name] not in ending[1]}


def test_a_process_that_is_refused(unit: Unit, probes: str) -> None:
    answer = unit.call("probes.faults", probes, mode="refused")
    assert not answer["given"]
    assert "refused" in answer["found"]["nothing"][1]
