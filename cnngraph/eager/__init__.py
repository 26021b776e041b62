"""Operators evaluated one by one on NumPy values at run time: the tail of a model whose shapes depend on data."""
