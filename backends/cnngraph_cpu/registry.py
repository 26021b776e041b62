"""Every kernel family of the CPU backend by name."""

from __future__ import annotations

from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.copy import ConcatChannels, ReorderKernel
from cnngraph_cpu.templates.dense import DenseLayer
from cnngraph_cpu.templates.depthwise import Depthwise
from cnngraph_cpu.templates.elementwise import EltwiseBlocked, EltwisePlain
from cnngraph_cpu.templates.lrn import LrnPlain
from cnngraph_cpu.templates.pool import PoolBlocked
from cnngraph_cpu.templates.reduce import ReduceSpatial
from cnngraph_cpu.templates.softmax import SoftmaxLast
from cnngraph_cpu.templates.winograd_plan import Winograd

TEMPLATES = {
    template.name: template
    for template in (
        ConvDirect(), Winograd(), Depthwise(), DenseLayer(), PoolBlocked(), ReduceSpatial(), SoftmaxLast(), LrnPlain(),
        EltwiseBlocked(), EltwisePlain(), ReorderKernel(), ConcatChannels(),
    )
}  # fmt: skip
