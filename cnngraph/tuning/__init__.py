"""Measuring alternatives to what the cost model chooses, layer by layer."""
