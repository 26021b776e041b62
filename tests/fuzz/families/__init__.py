"""What draws the cases of each operator, a module for each family of operators."""

from tests.fuzz.families import elementwise, indexing, movement

__all__ = ["elementwise", "indexing", "movement"]
