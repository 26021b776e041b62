"""Loading object code: nothing unresolved is ever called."""

from __future__ import annotations

import dataclasses

import pytest

from cnngraph.errors import ArtifactError
from cnngraph.runtime.elf import undefined_symbols
from cnngraph.runtime.features import missing_features
from cnngraph.runtime.loader import load_kernels
from tests.runtime.support import compiled


def test_driver_and_kernels_call_nothing_of_python() -> None:
    kernel, driver = compiled()
    assert undefined_symbols(kernel.code) == []
    assert set(undefined_symbols(driver.code)) <= {"syscall", "sched_yield"}


def test_code_is_loaded_once() -> None:
    assert load_kernels(compiled()) == load_kernels(compiled())


def test_code_that_calls_something_unknown() -> None:
    _, driver = compiled()
    changed = dataclasses.replace(driver, code=driver.code.replace(b"\0syscall\0", b"\0strange\0"))
    with pytest.raises(ArtifactError, match="driver calls strange"):
        load_kernels([changed])


def test_code_without_its_symbol() -> None:
    kernel, _ = compiled()
    with pytest.raises(ArtifactError, match="rotate lacks its entry point"):
        load_kernels([dataclasses.replace(kernel, symbol="elsewhere")])


@pytest.mark.parametrize("cut", [0, 5, 6, 50, 64, 1000])
def test_damaged_code(cut: int) -> None:
    kernel, _ = compiled()
    with pytest.raises(ArtifactError, match="object code"):
        load_kernels([dataclasses.replace(kernel, code=kernel.code[:cut])])


def test_features() -> None:
    assert missing_features(["avx9000"]) == ["avx9000"]
    assert missing_features([]) == []
