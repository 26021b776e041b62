"""The demonstration: accuracy, picture, and failure below the promised accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cnngraph_models import demo


def test_demo_classifies_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "digits.png"
    assert demo.demonstrate(picture, None) == 0
    out = capsys.readouterr().out
    for text in ("held-out digits", "batch  1", "batch 64", "generated kernels", "arena / lower bound", "conv1"):
        assert text in out
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 100


def test_demo_fails_below_the_promised_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "REQUIRED_ACCURACY", 1.01)
    assert demo.demonstrate(tmp_path / "digits.png", 1) == 1
    assert "accuracy is below" in capsys.readouterr().err
