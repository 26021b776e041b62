"""Verification and recognition by embeddings: faces, or anything else of which one picture each is known."""

from __future__ import annotations

import numpy as np

from cnngraph.errors import UsageError


def cosine_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of the angle of every pair: (..., d) and (m, d) to (..., m). A vector of length zero is similar to none (0).

    Raises:
        UsageError: if the vectors differ in their length.
    """
    first, second = np.asarray(first, np.float64), np.atleast_2d(np.asarray(second, np.float64))
    if first.shape[-1:] != second.shape[-1:]:
        raise UsageError(f"embeddings of shapes {first.shape} and {second.shape} do not have the same length")
    lengths = np.linalg.norm(first, axis=-1)[..., None] * np.linalg.norm(second, axis=-1)
    products = first @ second.T
    return np.clip(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0), -1, 1)


def same(first: np.ndarray, second: np.ndarray, threshold: float = 0.5) -> bool:
    """Whether two embeddings (d,) show the same person: their cosine reaches the threshold, which depends on the network."""
    return bool(cosine_similarity(first, second)[0] >= threshold)


def recognize(embedding: np.ndarray, known: np.ndarray, threshold: float = 0.5) -> int | None:
    """Index of the most similar of the ``known`` embeddings (m, d), or None if even that does not reach the threshold."""
    if len(known) == 0:
        return None
    similar = cosine_similarity(embedding, known)
    best = int(np.argmax(similar))
    return best if similar[best] >= threshold else None
