"""Tests compile; they do not read programs that earlier runs have compiled."""

import os

os.environ.setdefault("CNNGRAPH_CACHE_PROGRAMS", "0")
