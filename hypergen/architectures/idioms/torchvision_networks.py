"""Small networks from torchvision's constructors; see :mod:`hypergen.architectures.idioms.library`."""

from __future__ import annotations

from torch import nn

from hypergen.architectures.idioms.layers import groups_of
from hypergen.architectures.idioms.library_shapes import Shape, grey, heads_of, patch_of


def torchvision_vit(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Torchvision's vision transformer."""
    from torchvision.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        image_size=shape.image_size,
        patch_size=patch_of(shape.image_size, variant),
        num_layers=depth,
        num_heads=heads_of(width, variant),
        hidden_dim=width,
        mlp_dim=(2, 4)[variant % 2] * width,
        num_classes=shape.num_classes,
        representation_size=width if variant % 5 == 4 else None,
    )
    return grey(network, shape.channels, variant)


def torchvision_mobile(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """MobileNetV2 and V3."""
    from torchvision.models.mobilenetv2 import MobileNetV2
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    each = max(1, depth // 2)
    if variant % 2:
        setting = [[1, width, 1, 1], [4, width + 8, each, 2], [3, 2 * width, each, 1]]
        network = MobileNetV2(shape.num_classes, width_mult=0.25, inverted_residual_setting=setting, dropout=0.1)
        network.classifier[1] = nn.Linear(network.last_channel, shape.num_classes)
        return grey(network, shape.channels, variant)
    kind = "HS" if variant % 4 else "RE"
    settings = [
        InvertedResidualConfig(width, 3, width, width, variant % 3 > 0, kind, 1, 1, 1.0),
        InvertedResidualConfig(width, 5 if variant % 3 else 3, 3 * width, 2 * width, variant % 3 > 1, kind, 2, 1, 1.0),
        *[InvertedResidualConfig(2 * width, 3, 4 * width, 2 * width, True, kind, 1, 1, 1.0) for _ in range(each - 1)],
    ]
    network = MobileNetV3(settings, last_channel=4 * width, num_classes=shape.num_classes)
    return grey(network, shape.channels, variant)


def torchvision_shuffle(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """ShuffleNetV2."""
    from torchvision.models.shufflenetv2 import ShuffleNetV2

    each = max(1, depth // 3)
    channels = [width, width, 2 * width, 2 * width, 4 * width]
    return grey(ShuffleNetV2([each, each, each], channels, shape.num_classes), shape.channels, variant)


def torchvision_dense(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """DenseNets."""
    from torchvision.models.densenet import DenseNet

    blocks = (max(1, depth // 2), max(1, depth - depth // 2))
    network = DenseNet(max(4, width // 4), blocks, 2 * width, 2 + variant % 3, num_classes=shape.num_classes)
    return grey(network, shape.channels, variant)


def torchvision_convnext(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """ConvNeXt."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    each = max(1, depth // 2)
    settings = [CNBlockConfig(width, 2 * width, each), CNBlockConfig(2 * width, None, each)]
    network = ConvNeXt(settings, layer_scale=0.1, num_classes=shape.num_classes)
    return grey(network, shape.channels, variant)


def torchvision_regnet(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """RegNet and EfficientNet."""
    from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
    from torchvision.models.regnet import BlockParams, RegNet

    each = max(1, depth // 2)
    if variant % 2:
        groups = width // groups_of(width, 4)
        params = BlockParams([each, each], [width, 2 * width], [groups, groups], [1.0, 1.0], [1, 2])
        if variant % 3 == 0:
            params.se_ratio = 0.25
        return grey(RegNet(params, shape.num_classes, stem_width=width), shape.channels, variant)
    first = FusedMBConvConfig if variant % 3 else MBConvConfig
    settings = [first(1, 3, 1, width, width, 1), MBConvConfig(4, 3, 2, width, 2 * width, each)]
    network = EfficientNet(settings, 0.1, 0.0, shape.num_classes, last_channel=4 * width)
    return grey(network, shape.channels, variant)
