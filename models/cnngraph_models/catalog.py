"""The table of networks: each is registered beside the function that writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cnngraph_models.builder import Builder, Tensor

Body = Callable[[Builder, Tensor], Tensor | Mapping[str, Tensor] | None]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network before it is built.

    Attributes:
        name: the name that :func:`cnngraph_models.build` takes.
        description: one line.
        input_shape: shape of the float32 input "input" without the batch, (C, H, W).
        output_shape: shape of the output without the batch, or without the number of detections where that is the first axis.
        output: name of the output: "probabilities" after a softmax or sigmoid, else "logits" or "features".
        input_range: the smallest and largest input value that the random weights are scaled for.
        more_outputs: names and shapes of further outputs.
        batch: the only batch size that the network is written for, or None.
    """

    name: str
    description: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...] = (1000,)
    output: str = "probabilities"
    input_range: tuple[float, float] = (-1.0, 1.0)
    more_outputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    batch: int | None = None

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all outputs by name."""
        return {self.output: self.output_shape, **dict(self.more_outputs)}


@dataclass(frozen=True)
class Network:
    """A registered network: its description, its layers, and the builder options of its framework."""

    info: ModelInfo
    body: Body
    options: dict[str, Any] = field(default_factory=dict)


NETWORKS: dict[str, Network] = {}


def network(info: ModelInfo, **options: Any) -> Callable[[Body], Body]:
    """Register the decorated function as the layers of ``info``; ``options`` go to :class:`Builder`."""

    def register(body: Body) -> Body:
        add_network(info, body, **options)
        return body

    return register


def add_network(info: ModelInfo, body: Body, **options: Any) -> None:
    """Register ``body`` as the layers of ``info``."""
    NETWORKS[info.name] = Network(info, body, options)
