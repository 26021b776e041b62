"""Turn every laid-out node into a kernel call of the template chosen for it."""

from __future__ import annotations

from cnngraph.errors import CnngraphError, InternalError
from cnngraph.ir.graph import Graph, Node
from cnngraph.kernels.template import KernelCall, Target
from cnngraph.passes.choose_layout import LayoutChoice


def select_kernels(graph: Graph, choice: LayoutChoice, target: Target) -> dict[Node, KernelCall | None]:
    """The call of each node in graph order; None for aliases and for nodes that run by their NumPy reference.

    Raises:
        InternalError: a template fails on a node that it accepted; the message names both.
    """
    calls: dict[Node, KernelCall | None] = {}
    for node in graph.nodes:
        template = choice.templates[node]
        if template is None:
            calls[node] = None
            continue
        try:
            calls[node] = template.plan(node, target).typed()
        except CnngraphError:
            raise
        except Exception as error:
            raise InternalError(f"template {template.name} failed on {node.op.name}: {error!r}", node=node.label) from error
    graph.stage = "lowered"
    return calls
