"""Programs for the tile unit as users have them: compiled, saved, as libraries and modules; and where the unit is refused or absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnngraph
from cnngraph.errors import ArtifactError
from tests.tiles.support import Unit, needs_emulation

pytestmark = needs_emulation
REFUSED = "amx-tile (refused by the system)"


@pytest.fixture(scope="module")
def written(unit: Unit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with all forms of a layer, and what running it executed."""
    folder = tmp_path_factory.mktemp("one_layer")
    return folder, unit.call("networks.one_layer", str(folder))


def test_every_form_of_a_program_computes_the_same_bits(written: tuple[Path, dict[str, Any]]) -> None:
    executed = written[1]["executed"]
    assert executed["configure"] == 1 and executed["dot_bf16"] > 1000 and executed["dot_bytes"] == 0


def test_where_the_unit_is_refused(unit: Unit, written: tuple[Path, dict[str, Any]]) -> None:
    answer = unit.call("networks.elsewhere", str(written[0]), mode="refused")
    assert answer["state"] == "refused" and answer["best"] == "avx512"
    assert answer["several"] == answer["several libraries"] == "sse4"
    assert "it can be saved, but not run" in answer["run"] and REFUSED in answer["run"]
    assert "needs CPU features that this machine lacks" in answer["load"] and REFUSED in answer["load"]
    assert "lacks instructions that the code needs" in answer["library"]
    assert not any(count for name, count in answer["made"].items() if name != "requests")


def test_where_the_unit_is_absent(written: tuple[Path, dict[str, Any]]) -> None:
    folder = written[0]
    with pytest.raises(ArtifactError, match=r"compiled for avx512amx, .* lacks: amx-tile, amx-bf16, amx-int8"):
        cnngraph.load(folder / "one.cnng")
    assert cnngraph.load(folder / "two.cnng").data.isa == "sse4"
    command = [sys.executable, "-I", str(folder / "module" / "network.py")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "the kernels are for avx512amx, and this machine lacks amx-tile" in result.stderr


@pytest.mark.slow
def test_the_module_asks_for_the_unit(unit: Unit, written: tuple[Path, dict[str, Any]]) -> None:
    folder = str(written[0])
    refused = unit.call("networks.module", folder, mode="refused")
    assert REFUSED in refused["refusal"] and refused["made"]["configure"] == 0
    granted = unit.call("networks.module", folder)
    assert not granted["refusal"] and granted["made"]["dot_bf16"] == 2 * written[1]["executed"]["dot_bf16"]
    assert np.array_equal(np.load(f"{folder}/got.npy"), np.load(f"{folder}/want.npy"))


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "steps", "bound"), [("f32", 14, 1e-4), ("bf16", 15, 2e-2)])
def test_a_residual_network(unit: Unit, precision: str, steps: int, bound: float) -> None:
    answer = unit.call("networks.residual", "resnet18", precision, 64)
    assert answer["steps"] >= steps and answer["executed"]["dot_bf16"] > 10_000
    assert answer["error"] <= bound


@pytest.mark.slow
def test_networks_in_8_bits(unit: Unit) -> None:
    answer = unit.call("networks.quantized", 64)
    for name, steps in (("resnet18", 15), ("small", 2)):
        assert answer[name]["steps"] >= steps and answer[name]["executed"]["dot_bytes"] > 0


@pytest.mark.slow
def test_on_the_command_line(unit: Unit, written: tuple[Path, dict[str, Any]]) -> None:
    command = [sys.executable, "-m", "cnngraph", "doctor", "--json"]
    for mode in ("granted", "refused"):
        result = subprocess.run(command, env=unit.environment(mode), capture_output=True, text=True, check=True)
        assert f'"tiles": "{mode}"' in result.stdout
