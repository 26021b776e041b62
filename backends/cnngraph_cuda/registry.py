"""Every kernel family of the CUDA backend by name."""

from __future__ import annotations

from typing import Any

from cnngraph_cuda.templates.conv_plan import ConvGemm
from cnngraph_cuda.templates.relayout import Relayout

TEMPLATES: dict[str, Any] = {template.name: template for template in (ConvGemm(), Relayout())}
