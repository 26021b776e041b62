"""EfficientNet-B0 to B7 in Keras' wiring: depth, width and resolution scaled together (Tan and Le 2019)."""

from __future__ import annotations

import math

import numpy as np

from cnngraph_models.builder import Builder, Padding, Tensor
from cnngraph_models.catalog import ModelInfo, add_network
from cnngraph_models.layers import classifier, conv_bn, squeeze_excite
from cnngraph_models.nasnet import even_pad
from cnngraph_models.small import KERAS_EPSILON
from cnngraph_models.weights import Moments

# width, depth, side of the image
_VARIANTS = (
    (1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260), (1.2, 1.4, 300), (1.4, 1.8, 380), (1.6, 2.2, 456), (1.8, 2.6, 528), (2.0, 3.1, 600),
)  # fmt: skip
# kernel, repeats, filters, expansion, stride
_BLOCKS = ((3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2), (3, 1, 320, 6, 1))
_MEAN, _VARIANCE = (0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2)


def round_filters(filters: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``filters``, but not below nine tenths of it."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def _normalize(b: Builder, x: Tensor) -> Tensor:
    """Pixels of 0 to 255 to about -2 to 2: the preprocessing that these networks contain."""
    x = b.scale(x, 1 / 255, name="rescaling")
    mean = b.constant("normalization.mean", np.array(_MEAN, np.float32))
    variance = b.constant("normalization.variance", np.array(_VARIANCE, np.float32))
    # Keras also stores how many images the statistics are of. No node reads that, but Keras counts it.
    b.constant("normalization.count", np.array(1.0, np.float32))
    inputs: list[Tensor | str] = [x, b.filled(3, 1.0), b.filled(3, 0.0), mean, variance]
    return b.node("BatchNormalization", inputs, x.shape, name="normalization", moments=Moments(0.2, 1.6), epsilon=0.0)


def _register(index: int, width: float, depth: float, side: int) -> None:
    def body(b: Builder, x: Tensor) -> Tensor:
        x = _normalize(b, x)
        x = conv_bn(b, x, round_filters(32 * width), 3, stride=2, pad=even_pad(x, 3), act="swish", name="stem")
        for stage, (kernel, repeats, filters, expansion, first_stride) in enumerate(_BLOCKS, 1):
            for block in range(math.ceil(depth * repeats)):
                name = f"block{stage}{chr(ord('a') + block)}"
                stride = first_stride if block == 0 else 1
                y = x if expansion == 1 else conv_bn(b, x, expansion * x.shape[0], 1, act="swish", name=f"{name}_expand")
                pad: Padding = even_pad(y, kernel) if stride == 2 else "same"
                y = conv_bn(b, y, y.shape[0], kernel, stride=stride, pad=pad, group=y.shape[0], act="swish", name=f"{name}_depthwise")
                y = squeeze_excite(b, y, max(1, x.shape[0] // 4), act="swish", name=f"{name}_se")
                joins = block > 0 or (stride == 1 and x.shape[0] == round_filters(filters * width))
                y = conv_bn(b, y, round_filters(filters * width), 1, act="", residual=joins, name=f"{name}_project")
                x = b.add(y, x, name=f"{name}_add") if joins else y
        x = conv_bn(b, x, round_filters(1280 * width), 1, act="swish", name="top")
        return classifier(b, x)

    text = f"EfficientNet-B{index}, Keras wiring, on 0..255 images: squeeze-and-excitation, swish (Tan and Le 2019)"
    info = ModelInfo(f"efficientnet_b{index}", text, (3, side, side), input_range=(0.0, 255.0))
    add_network(info, body, conv_bias=False, epsilon=KERAS_EPSILON)


for _index, _variant in enumerate(_VARIANTS):
    _register(_index, *_variant)
