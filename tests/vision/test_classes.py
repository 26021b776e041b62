"""Labels, identities and class activation maps; lecture facts 2.33 and 3.11."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.vision import class_activation_map, cosine_similarity, read_labels, recognize, same, top_k


def test_top_k() -> None:
    scores = np.array([[0.1, 0.4, 0.05, 0.4, 0.05]], np.float32)
    found = top_k(scores, 3, ["a", "b", "c", "d", "e"])
    assert [(p.index, p.label) for p in found] == [(1, "b"), (3, "d"), (0, "a")]
    assert found[0].score == pytest.approx(0.4)
    assert [p.label for p in top_k(scores[0], 9)] == ["1", "3", "0", "2", "4"]
    assert [p.index for p in top_k(np.array([np.nan, 1.0, np.inf]), 3)] == [2, 1, 0]


def test_top_k_refuses() -> None:
    with pytest.raises(UsageError, match="one image"):
        top_k(np.zeros((2, 3)))
    with pytest.raises(UsageError, match="labels"):
        top_k(np.zeros(3), labels=["a"])
    with pytest.raises(UsageError, match="at least 1"):
        top_k(np.zeros(3), 0)


def test_labels_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog \n\nLöwe\n\n", "utf-8")
    assert read_labels(path) == ["cat", "dog", "", "Löwe"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        read_labels(path)


def test_cosine_verification() -> None:
    rng = np.random.default_rng(0)
    known = rng.standard_normal((5, 128))
    np.testing.assert_allclose(np.diag(cosine_similarity(known, known)), 1)
    assert np.abs(cosine_similarity(known, known) - np.eye(5)).max() < 0.4
    seen = 3 * known[3] + 0.3 * rng.standard_normal(128)  # the length of an embedding says nothing
    assert same(seen, known[3]) and not same(seen, known[2])
    assert recognize(seen, known) == 3
    assert recognize(rng.standard_normal(128), known) is None
    assert recognize(seen, known[:0]) is None
    assert not cosine_similarity(np.zeros(128), known).any()
    with pytest.raises(UsageError, match="same length"):
        cosine_similarity(seen[:5], known)


def test_class_activation_map_refuses() -> None:
    with pytest.raises(UsageError, match="do not belong"):
        class_activation_map(np.zeros((4, 7, 7)), np.zeros(5))
