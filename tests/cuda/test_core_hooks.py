"""What the core does for backends whose kernels do not run on the CPU."""

from __future__ import annotations

import pytest

from cnngraph.errors import UsageError
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph.runtime import artifact
from cnngraph_cuda.device import LAUNCH_WORDS
from cnngraph_cuda.tensor_maps import MAP_WORDS

from .support import Net


def test_precision_is_for_devices():
    net = Net(4)
    net.add_output("y", net.x)
    with pytest.raises(UsageError, match="precision f16"):
        compile_graph(net, CompileOptions(precision="f16"))


def test_unknown_precision():
    with pytest.raises(UsageError, match="choose f32, tf32, f16 or bf16"):
        CompileOptions(precision="f8")


def test_words_on_disk_belong_to_the_format_version():
    """Whoever changes what artifacts hold of a launch raises ``artifact.VERSION``, so that older files are refused, and adds a row."""
    words = {
        3: (
            "launch_units launch_per launch_y launch_z launch_threads launch_shared launch_span launch_split launch_slots launch_maps",
            "argument type rank size_0 size_1 size_2 size_3 pitch_1 pitch_2 pitch_3 box_0 box_1 low_0 low_1 high_0 high_1 step_0 step_1",
        )
    }
    assert words[artifact.VERSION] == (" ".join(LAUNCH_WORDS), " ".join(MAP_WORDS))
