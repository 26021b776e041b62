"""The residual networks of He et al. 2015 and 2016, in Keras' wiring and in torchvision's.

``resnetN`` is Keras': convolutions have a bias, the stride of a bottleneck is on its first 1x1, a softmax at the end.
``resnetN_v1_5`` is torchvision's: no bias, the stride is on the 3x3, logits at the end. Both normalise after every convolution.
``resnetN_v2`` is Keras' pre-activation form. ``resnet50_dct`` reads JPEG coefficients and has no entry stage (Gueguen et al. 2018).
"""

from __future__ import annotations

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, add_network, network
from cnngraph_models.layers import classifier, conv_bn, pad

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_KERAS_EPSILON = 1.001e-5


def _basic(b: Builder, x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """Two 3x3 convolutions; the first has the stride."""
    y = b.conv(x, filters, 3, stride=stride, pad=1, name=f"{name}_conv1")
    y = b.relu(b.batch_norm(y, name=f"{name}_bn1"), name=f"{name}_relu1")
    y = b.conv(y, filters, 3, pad=1, name=f"{name}_conv2")
    return b.batch_norm(y, name=f"{name}_bn2", residual=True)


def _bottleneck(b: Builder, x: Tensor, filters: int, stride: int, name: str, stride_on_3x3: bool) -> Tensor:
    """1x1, 3x3 and 1x1 to four times the filters."""
    y = b.conv(x, filters, 1, stride=1 if stride_on_3x3 else stride, name=f"{name}_conv1")
    y = b.relu(b.batch_norm(y, name=f"{name}_bn1"), name=f"{name}_relu1")
    y = b.conv(y, filters, 3, stride=stride if stride_on_3x3 else 1, pad=1, name=f"{name}_conv2")
    y = b.relu(b.batch_norm(y, name=f"{name}_bn2"), name=f"{name}_relu2")
    y = b.conv(y, 4 * filters, 1, name=f"{name}_conv3")
    return b.batch_norm(y, name=f"{name}_bn3", residual=True)


def residual_stages(b: Builder, x: Tensor, depth: int = 50, *, first: int = 2, last: int = 5, torch: bool = False) -> list[Tensor]:
    """The results of the stages ``first`` to ``last`` (conv2_x to conv5_x of the paper); stage ``first`` keeps the size of its map."""
    results = []
    for stage in range(first, last + 1):
        filters = 64 << (stage - 2)
        outer = filters if depth < 50 else 4 * filters
        for block in range(1, _STAGES[depth][stage - 2] + 1):
            name = f"conv{stage}_block{block}"
            stride = 2 if stage > first and block == 1 else 1
            y = _basic(b, x, filters, stride, name) if depth < 50 else _bottleneck(b, x, filters, stride, name, torch)
            if x.shape != y.shape:
                x = b.conv(x, outer, 1, stride=stride, name=f"{name}_shortcut")
                x = b.batch_norm(x, name=f"{name}_shortcut_bn")
            x = b.relu(b.add(x, y, name=f"{name}_add"), name=f"{name}_out")
        results.append(x)
    return results


def entry(b: Builder, x: Tensor) -> Tensor:
    """The 7x7 convolution and the pooling before the stages: a quarter of each side, 64 channels."""
    x = b.conv(x, 64, 7, stride=2, pad=3, name="conv1")
    x = b.relu(b.batch_norm(x, name="bn1"), name="relu1")
    return b.max_pool(x, 3, stride=2, pad=1, name="pool1")


def _resnet(b: Builder, x: Tensor, depth: int, torch: bool) -> Tensor:
    x = residual_stages(b, entry(b, x), depth, torch=torch)[-1]
    x = b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")
    x = b.dense(x, 1000, name="predictions")
    return x if torch else b.softmax(x, name="softmax")


def _register(depth: int) -> None:
    def keras(b: Builder, x: Tensor) -> Tensor:
        return _resnet(b, x, depth, torch=False)

    def torch(b: Builder, x: Tensor) -> Tensor:
        return _resnet(b, x, depth, torch=True)

    first, other = ("", "") if depth < 50 else (", stride on the first 1x1", ", stride on the 3x3")
    info = ModelInfo(f"resnet{depth}", f"ResNet-{depth}, Keras wiring: convolutions with bias{first}", (3, 224, 224))
    add_network(info, keras, epsilon=_KERAS_EPSILON)
    info = ModelInfo(
        f"resnet{depth}_v1_5", f"ResNet-{depth}, torchvision wiring: convolutions without bias{other}", (3, 224, 224), output="logits"
    )
    add_network(info, torch, transposed_dense=True, conv_bias=False)


def _register_v2(depth: int) -> None:
    def body(b: Builder, x: Tensor) -> Tensor:
        x = b.conv(x, 64, 7, stride=2, pad=3, name="conv1")
        # Not yet rectified, so the zeros that Keras pads with may be the largest elements of a window.
        x = b.max_pool(pad(b, x, (1, 1), (1, 1), name="pool1_pad"), 3, stride=2, name="pool1")
        for stage, blocks in enumerate(_STAGES[depth], 2):
            filters = 64 << (stage - 2)
            for block in range(1, blocks + 1):
                name = f"conv{stage}_block{block}"
                stride = 2 if block == blocks and stage < 5 else 1
                y = b.relu(b.batch_norm(x, name=f"{name}_preact_bn"), name=f"{name}_preact_relu")
                if block == 1:
                    x = b.conv(y, 4 * filters, 1, stride=stride, bias=True, name=f"{name}_shortcut")
                elif stride > 1:
                    x = b.max_pool(x, 1, stride=stride, name=f"{name}_shortcut")
                y = conv_bn(b, y, filters, 1, name=f"{name}_1")
                y = conv_bn(b, y, filters, 3, stride=stride, pad=1, name=f"{name}_2")
                y = b.conv(y, 4 * filters, 1, bias=True, name=f"{name}_3")
                x = b.add(x, y, name=f"{name}_add")
        return classifier(b, b.relu(b.batch_norm(x, name="post_bn"), name="post_relu"))

    info = ModelInfo(
        f"resnet{depth}_v2", f"ResNet-{depth}V2, Keras wiring: normalisation before convolution (He et al. 2016)", (3, 224, 224)
    )
    add_network(info, body, epsilon=_KERAS_EPSILON)


for _depth in _STAGES:
    _register(_depth)
for _depth in (50, 101, 152):
    _register_v2(_depth)


@network(
    ModelInfo("resnet50_dct", "ResNet-50 on the 8x8 block DCT coefficients of JPEG luma, without the entry stage", (64, 28, 28)),
    epsilon=_KERAS_EPSILON,
)
def resnet50_dct(b: Builder, x: Tensor) -> Tensor:
    """Normalised coefficients straight into the stage of 28 x 28 maps."""
    return classifier(b, residual_stages(b, b.batch_norm(x, name="input_bn"), first=3)[-1])
