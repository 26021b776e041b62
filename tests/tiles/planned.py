"""How many tile instructions a call of a tile kernel executes, from its plan."""

from __future__ import annotations

from collections import Counter

from cnngraph.ir.types import bind_dim, ceil_div
from cnngraph.kernels.template import Extent, KernelCall


def planned(call: KernelCall, batch: int) -> Counter[str]:
    """Tile loads, stores and products for ``batch`` images, whatever the number of threads."""
    n = {name: bind_dim(given.value, batch) for name, given in call.arguments.items() if isinstance(given, Extent)}
    constants = dict(call.spec.constants)
    across, terms = constants["TN"], 3 if constants.get("SPLIT") else 1
    parts = max(1, ceil_div(n["images"], n["together"]))
    shared = ceil_div(n["images"], parts)
    tiles = pairs = 0
    for part in range(min(n["images"], parts)):
        here = min(shared, n["images"] - part * shared)
        for row in range(0, n["rows_out"], n["block_rows"]):
            rows = min(n["block_rows"], n["rows_out"] - row)
            for first in range(0, here, n["line_images"]):
                inside = min(n["line_images"], here - first)
                pixels = (inside - 1) * n["image_step"] + (rows - 1) * n["pitch"] + n["cols_out"]
                tiles += ceil_div(pixels, 16)
                pairs += ceil_div(pixels, 32)
    steps = n["panels"] * n["used_blocks"] * n["taps"]
    loads_of_pixels, loads_of_weights = (2, 2) if terms == 3 else (1, 1)
    product = "dot_bytes" if constants.get("BYTES") else "dot_bf16"
    return Counter(
        {
            product: steps * tiles * across * terms,
            "load": steps * (tiles * loads_of_pixels + pairs * across * loads_of_weights),
            "zero": n["panels"] * tiles * across,
            "store": n["panels"] * tiles * across,
        }
    )
