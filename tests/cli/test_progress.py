"""The progress bar goes to standard error, and only to a terminal."""

from __future__ import annotations

import sys

import pytest

from cnngraph.cli.output import kernel_progress, table


def test_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with kernel_progress() as progress:
        assert progress is None
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with kernel_progress() as progress:
        assert progress is not None
        progress(1, 3, "conv")
        progress(3, 3, "conv")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "compiling kernels" in captured.err


def test_tables_are_plain_text_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    table("title", ["name", "count"], [["[red]x[/red]", 1234567], ["\x1b[31mevil", 5]], footer=["total", 1234572])
    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "[red]x[/red]" in text
    assert "1,234,567" in text
    widths = [len(line) for line in lines if line.startswith((" [red]", " \\x1b", " total"))]
    assert len(widths) == 3
    assert len(set(widths)) == 1
