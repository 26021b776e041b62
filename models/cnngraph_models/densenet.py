"""DenseNet-121, -169 and -201 in Keras' wiring: every layer reads the concatenation of all before it (Huang et al. 2016)."""

from __future__ import annotations

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, add_network
from cnngraph_models.layers import classifier, conv_bn, pad

_BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
_GROWTH = 32


def _register(depth: int) -> None:
    def body(b: Builder, x: Tensor) -> Tensor:
        x = conv_bn(b, x, 64, 7, stride=2, pad=3, name="conv1")
        x = b.max_pool(pad(b, x, (1, 1), (1, 1), name="pool1_pad"), 3, stride=2, name="pool1")
        for block, layers in enumerate(_BLOCKS[depth], 2):
            for layer in range(1, layers + 1):
                name = f"conv{block}_block{layer}"
                y = b.relu(b.batch_norm(x, name=f"{name}_bn0"), name=f"{name}_relu0")
                y = conv_bn(b, y, 4 * _GROWTH, 1, name=f"{name}_1")
                y = b.conv(y, _GROWTH, 3, pad=1, name=f"{name}_2_conv")
                x = b.concat([x, y], name=f"{name}_concat")
            if block < 5:
                x = b.relu(b.batch_norm(x, name=f"pool{block}_bn"), name=f"pool{block}_relu")
                x = b.conv(x, x.shape[0] // 2, 1, name=f"pool{block}_conv")
                x = b.average_pool(x, 2, stride=2, name=f"pool{block}_pool")
        x = b.relu(b.batch_norm(x, name="bn"), name="relu")
        return classifier(b, x)

    info = ModelInfo(f"densenet{depth}", f"DenseNet-{depth}, Keras wiring: dense blocks of concatenated layers", (3, 224, 224))
    add_network(info, body, conv_bias=False, epsilon=1.001e-5)


for _depth in _BLOCKS:
    _register(_depth)
