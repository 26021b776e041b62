"""Networks from images to images: U-Net, autoencoders, super-resolution, CycleGAN and pix2pix generators."""

from __future__ import annotations

import math

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, network
from cnngraph_models.layers import crop, instance_norm, leaky_relu, pad, reshape, upsample


def _unet(b: Builder, x: Tensor, *, same: bool, resize: bool, classes: int = 2) -> Tensor:
    """Four poolings down and four enlargements up, with a concatenation across at each level."""

    def double(y: Tensor, filters: int, name: str) -> Tensor:
        for index in (1, 2):
            y = b.conv(y, filters, 3, pad=1 if same else 0, name=f"{name}_conv{index}")
            y = b.relu(y, name=f"{name}_relu{index}")
        return y

    skips = []
    for level in range(4):
        x = double(x, 64 << level, f"down{level + 1}")
        skips.append(x)
        x = b.max_pool(x, 2, stride=2, name=f"pool{level + 1}")
    x = double(x, 1024, "bottom")
    for level in range(3, -1, -1):
        filters, name, skip = 64 << level, f"up{level + 1}", skips[level]
        if resize:
            x = b.conv(upsample(b, x, 2, mode="linear", name=f"{name}_resize"), filters, 1, name=f"{name}_reduce")
        else:
            x = b.conv_transpose(x, filters, 2, stride=2, name=f"{name}_transpose")
        if skip.shape[1:] != x.shape[1:]:
            begins = [(large - small) // 2 for large, small in zip(skip.shape[1:], x.shape[1:], strict=True)]
            skip = crop(b, skip, begins, x.shape[1:], name=f"{name}_crop")
        x = double(b.concat((skip, x), name=f"{name}_concat"), filters, name)
    return b.softmax(b.conv(x, classes, 1, name="classes"), name="softmax")


@network(ModelInfo("unet", "U-Net, same padding, transposed convolutions, 2 classes a pixel", (3, 256, 256), (2, 256, 256)))
def unet(b: Builder, x: Tensor) -> Tensor:
    """The output has the size of the input, whose sides are multiples of 16."""
    return _unet(b, x, same=True, resize=False)


@network(
    ModelInfo("unet_valid", "U-Net as published: valid convolutions, cropped skips (Ronneberger et al. 2015)", (1, 572, 572), (2, 388, 388))
)
def unet_valid(b: Builder, x: Tensor) -> Tensor:
    """572 x 572 pixels in, 388 x 388 out."""
    return _unet(b, x, same=False, resize=False)


@network(ModelInfo("unet_resize", "U-Net, same padding, bilinear enlargement, 2 classes a pixel", (3, 256, 256), (2, 256, 256)))
def unet_resize(b: Builder, x: Tensor) -> Tensor:
    """As ``unet``, with Resize and a 1x1 convolution in the place of the transposed convolution."""
    return _unet(b, x, same=True, resize=True)


@network(
    ModelInfo("autoencoder", "Autoencoder: strided convolutions down, transposed ones up", (3, 90, 121), (3, 90, 121), "image",
        (0.0, 1.0),)
)  # fmt: skip
def autoencoder(b: Builder, x: Tensor) -> Tensor:
    """Every size of image comes back as it was: the output padding of each step up makes up for the rounding of the step down."""
    sizes = []
    channels = x.shape[0]
    for index, filters in enumerate((32, 64, 128), 1):
        sizes.append(x.shape[1:])
        x = b.relu(b.conv(x, filters, 3, stride=2, pad=1, name=f"down{index}"), name=f"down{index}_relu")
    for index, (filters, size) in enumerate(zip((64, 32, channels), reversed(sizes), strict=True), 1):
        extra = tuple(1 - side % 2 for side in size)
        x = b.conv_transpose(x, filters, 3, stride=2, pad=1, output_padding=extra, name=f"up{index}")
        if index < 3:
            x = b.relu(x, name=f"up{index}_relu")
    return b.sigmoid(x, name="sigmoid")


@network(
    ModelInfo(
        "autoencoder_latent2", "Autoencoder of 28x28 digits through two numbers", (1, 28, 28), (1, 28, 28), "image", (0.0, 1.0),
        (("latent", (2,)),),
    )
)  # fmt: skip
def autoencoder_latent2(b: Builder, x: Tensor) -> dict[str, Tensor]:
    """The second output is the pair of numbers."""
    for index, filters in enumerate((16, 32), 1):
        x = b.relu(b.conv(x, filters, 3, stride=2, pad=1, name=f"down{index}"), name=f"down{index}_relu")
    shape = x.shape
    latent = b.dense(b.flatten(x, name="flatten"), 2, name="encode")
    x = b.relu(b.dense(latent, math.prod(shape), name="decode"), name="decode_relu")
    x = reshape(b, x, shape, name="unflatten")
    x = b.relu(b.conv_transpose(x, 16, 2, stride=2, name="up1"), name="up1_relu")
    return {"image": b.sigmoid(b.conv_transpose(x, 1, 2, stride=2, name="up2"), name="sigmoid"), "latent": latent}


@network(
    ModelInfo(
        "espcn",
        "ESPCN: threefold super-resolution of luma by DepthToSpace (Shi et al. 2016)",
        (1, 224, 224),
        (1, 672, 672),
        "image",
        (0.0, 1.0),
    )
)
def espcn(b: Builder, x: Tensor) -> Tensor:
    """Four convolutions at the low resolution; the channels of the last become pixels."""
    for index, (filters, kernel) in enumerate(((64, 5), (64, 3), (32, 3)), 1):
        x = b.relu(b.conv(x, filters, kernel, pad=kernel // 2, name=f"conv{index}"), name=f"relu{index}")
    x = b.conv(x, 9, 3, pad=1, name="conv4")
    shape = (1, 3 * x.shape[1], 3 * x.shape[2])
    return b.node("DepthToSpace", [x], shape, name="depth_to_space", blocksize=3, mode="CRD")


@network(
    ModelInfo(
        "cyclegan",
        "CycleGAN generator: nine residual blocks, instance normalisation (Zhu et al. 2017)",
        (3, 256, 256),
        (3, 256, 256),
        "image",
    )
)
def cyclegan(b: Builder, x: Tensor) -> Tensor:
    """Reflected borders, two strided convolutions down and two transposed ones up."""

    def reflected(y: Tensor, filters: int, kernel: int, name: str) -> Tensor:
        side = kernel // 2
        return b.conv(pad(b, y, (side, side), (side, side), mode="reflect", name=f"{name}_pad"), filters, kernel, name=name)

    def normalised(y: Tensor, name: str, *, relu: bool = True) -> Tensor:
        y = instance_norm(b, y, name=f"{name}_norm")
        return b.relu(y, name=f"{name}_relu") if relu else y

    x = normalised(reflected(x, 64, 7, "first"), "first")
    for index in (1, 2):
        x = normalised(b.conv(x, 64 << index, 3, stride=2, pad=1, name=f"down{index}"), f"down{index}")
    for block in range(1, 10):
        y = normalised(reflected(x, 256, 3, f"block{block}_conv1"), f"block{block}_conv1")
        y = normalised(reflected(y, 256, 3, f"block{block}_conv2"), f"block{block}_conv2", relu=False)
        x = b.add(x, y, name=f"block{block}_add")
    for index in (1, 2):
        x = b.conv_transpose(x, 256 >> index, 3, stride=2, pad=1, output_padding=1, name=f"up{index}")
        x = normalised(x, f"up{index}")
    return b.tanh(reflected(x, 3, 7, "last"), name="tanh")


@network(
    ModelInfo("pix2pix", "pix2pix generator: a U-Net of eight strided levels (Isola et al. 2016)", (3, 256, 256), (3, 256, 256), "image"),
    conv_bias=False,
)
def pix2pix(b: Builder, x: Tensor) -> Tensor:
    """Down to one pixel; every level up reads the concatenation with its level down."""
    downs = [b.conv(x, 64, 4, stride=2, pad=1, name="down1")]
    for level, filters in enumerate((128, 256, 512, 512, 512, 512, 512), 2):
        y = leaky_relu(b, downs[-1], alpha=0.2, name=f"down{level}_act")
        y = b.conv(y, filters, 4, stride=2, pad=1, name=f"down{level}")
        downs.append(b.batch_norm(y, name=f"down{level}_bn") if level < 8 else y)
    x = downs.pop()
    for level, filters in zip(range(8, 1, -1), (512, 512, 512, 512, 256, 128, 64), strict=True):
        x = b.conv_transpose(b.relu(x, name=f"up{level}_act"), filters, 4, stride=2, pad=1, bias=False, name=f"up{level}")
        x = b.batch_norm(x, name=f"up{level}_bn")
        x = b.concat((downs.pop(), x), name=f"up{level}_concat")
    x = b.conv_transpose(b.relu(x, name="up1_act"), 3, 4, stride=2, pad=1, name="up1")
    return b.tanh(x, name="tanh")
