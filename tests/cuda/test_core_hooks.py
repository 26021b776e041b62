"""What the core does for backends whose kernels do not run on the CPU."""

from __future__ import annotations

import pytest

from cnngraph.errors import UsageError
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph

from .support import Net


def test_precision_is_for_devices():
    net = Net(4)
    net.add_output("y", net.x)
    with pytest.raises(UsageError, match="precision f16"):
        compile_graph(net, CompileOptions(precision="f16"))


def test_unknown_precision():
    with pytest.raises(UsageError, match="choose f32, tf32, f16 or bf16"):
        CompileOptions(precision="f8")
