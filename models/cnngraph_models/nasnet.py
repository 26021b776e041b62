"""NASNet-A in Keras' wiring: cells found by search, each reading the two cells before it (Zoph et al. 2017)."""

from __future__ import annotations

from cnngraph_models.builder import Builder, Padding, Tensor
from cnngraph_models.catalog import ModelInfo, add_network
from cnngraph_models.layers import classifier, crop, pad, separable
from cnngraph_models.small import KERAS_EPSILON


def even_pad(x: Tensor, kernel: int) -> tuple[int, int, int, int]:
    """Keras' ``correct_pad``: the padding of a layer of stride 2, one less at the beginning of an even side."""
    begins = tuple(kernel // 2 - 1 + size % 2 for size in x.shape[1:])
    return begins[0], begins[1], kernel // 2, kernel // 2


def _separable_block(b: Builder, x: Tensor, filters: int, kernel: int, name: str, stride: int = 1) -> Tensor:
    """Activation, separable convolution and normalisation, twice; the first has the stride."""
    x = b.relu(x, name=f"{name}_relu1")
    padding: Padding = "same"
    if stride == 2:
        begins_ends = even_pad(x, kernel)
        x = pad(b, x, begins_ends[:2], begins_ends[2:], name=f"{name}_pad")
        padding = "valid"
    x = separable(b, x, filters, kernel, stride=stride, pad=padding, name=f"{name}_sep1")
    x = b.relu(b.batch_norm(x, name=f"{name}_bn1"), name=f"{name}_relu2")
    return b.batch_norm(separable(b, x, filters, kernel, name=f"{name}_sep2"), residual=True, name=f"{name}_bn2")


def _adjust(b: Builder, p: Tensor | None, x: Tensor, filters: int, name: str) -> Tensor:
    """The cell before the last, brought to the shape of the last."""
    if p is None:
        return x
    if p.shape[1:] != x.shape[1:]:
        p = b.relu(p, name=f"{name}_relu")
        left = b.average_pool(p, 1, stride=2, name=f"{name}_pool1")
        left = b.conv(left, filters // 2, 1, name=f"{name}_conv1")
        # Shifted by one pixel: a zero row and column are added below and to the right, the first ones are cut.
        right = pad(b, p, (0, 0), (1, 1), name=f"{name}_pad")
        right = crop(b, right, (1, 1), p.shape[1:], name=f"{name}_crop")
        right = b.average_pool(right, 1, stride=2, name=f"{name}_pool2")
        right = b.conv(right, filters // 2, 1, name=f"{name}_conv2")
        return b.batch_norm(b.concat([left, right], name=f"{name}_concat"), name=f"{name}_bn")
    if p.shape[0] != filters:
        return _project(b, p, filters, name)
    return p


def _project(b: Builder, x: Tensor, filters: int, name: str) -> Tensor:
    x = b.conv(b.relu(x, name=f"{name}_relu"), filters, 1, name=f"{name}_conv")
    return b.batch_norm(x, name=f"{name}_bn")


def _normal(b: Builder, x: Tensor, p: Tensor | None, filters: int, name: str) -> Tensor:
    p = _adjust(b, p, x, filters, f"{name}_adjust")
    h = _project(b, x, filters, f"{name}_project")

    def sep(y: Tensor, kernel: int, part: str) -> Tensor:
        return _separable_block(b, y, filters, kernel, f"{name}_{part}")

    def mean(y: Tensor, part: str) -> Tensor:
        return b.average_pool(y, 3, stride=1, pad="same", name=f"{name}_{part}")

    x1 = b.add(sep(h, 5, "left1"), sep(p, 3, "right1"), name=f"{name}_add1")
    x2 = b.add(sep(p, 5, "left2"), sep(p, 3, "right2"), name=f"{name}_add2")
    x3 = b.add(mean(h, "left3"), p, name=f"{name}_add3")
    x4 = b.add(mean(p, "left4"), mean(p, "right4"), name=f"{name}_add4")
    x5 = b.add(sep(h, 3, "left5"), h, name=f"{name}_add5")
    return b.concat([p, x1, x2, x3, x4, x5], name=f"{name}_concat")


def _reduction(b: Builder, x: Tensor, p: Tensor | None, filters: int, name: str) -> Tensor:
    p = _adjust(b, p, x, filters, f"{name}_adjust")
    h = _project(b, x, filters, f"{name}_project")
    begins_ends = even_pad(h, 3)
    padded = pad(b, h, begins_ends[:2], begins_ends[2:], name=f"{name}_pad")

    def sep(y: Tensor, kernel: int, part: str) -> Tensor:
        return _separable_block(b, y, filters, kernel, f"{name}_{part}", 2)

    x1 = b.add(sep(h, 5, "left1"), sep(p, 7, "right1"), name=f"{name}_add1")
    x2 = b.add(b.max_pool(padded, 3, stride=2, name=f"{name}_left2"), sep(p, 7, "right2"), name=f"{name}_add2")
    x3 = b.add(b.average_pool(padded, 3, stride=2, name=f"{name}_left3"), sep(p, 5, "right3"), name=f"{name}_add3")
    x4 = b.add(x2, b.average_pool(x1, 3, stride=1, pad="same", name=f"{name}_left4"), name=f"{name}_add4")
    left = _separable_block(b, x1, filters, 3, f"{name}_left5")
    x5 = b.add(left, b.max_pool(padded, 3, stride=2, name=f"{name}_right5"), name=f"{name}_add5")
    return b.concat([x2, x3, x4, x5], name=f"{name}_concat")


def _register(name: str, text: str, side: int, penultimate: int, blocks: int, stem: int, skip: bool) -> None:
    def body(b: Builder, x: Tensor) -> Tensor:
        filters = penultimate // 24
        x = b.batch_norm(b.conv(x, stem, 3, stride=2, name="stem_conv"), name="stem_bn")
        p: Tensor | None = None
        x, p = _reduction(b, x, p, filters // 4, "stem_1"), x
        x, p = _reduction(b, x, p, filters // 2, "stem_2"), x
        for index in range(blocks):
            x, p = _normal(b, x, p, filters, f"cell_{index}"), x
        for stage, factor in enumerate((2, 4), 1):
            before = x
            x = _reduction(b, x, p, filters * factor, f"reduce_{stage}")
            p = p if skip else before
            for index in range(blocks):
                x, p = _normal(b, x, p, filters * factor, f"cell_{stage * blocks + index + 1}"), x
        return classifier(b, b.relu(x, name="relu"))

    info = ModelInfo(name, f"{text}, Keras wiring: searched cells of separable convolutions (Zoph et al. 2017)", (3, side, side))
    add_network(info, body, conv_bias=False, epsilon=KERAS_EPSILON)


_register("nasnet_mobile", "NASNet-Mobile", 224, 1056, 4, 32, False)
_register("nasnet_large", "NASNet-Large", 331, 4032, 6, 96, True)
