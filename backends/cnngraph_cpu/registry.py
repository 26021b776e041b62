"""Every kernel family of the CPU backend by name."""

from __future__ import annotations

from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.winograd_plan import Winograd

TEMPLATES = {template.name: template for template in (ConvDirect(), Winograd(),)}
