"""Rewrites of the graph, one a file, and the steps that lay it out, select kernels and plan memory."""
