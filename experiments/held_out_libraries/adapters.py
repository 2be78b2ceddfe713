"""Constructors of libraries whose own arguments are objects, from plain ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def efficientnet(blocks: Sequence[str], stem: int) -> nn.Module:
    """A network of ``efficientnet_pytorch`` from its block strings.

    Args:
        blocks: Block strings, as the library writes them.
        stem: Input channels of the first block, which the stem has.
    """
    from efficientnet_pytorch import EfficientNet
    from efficientnet_pytorch.utils import BlockDecoder, GlobalParams

    options = GlobalParams(
        width_coefficient=stem / 32,
        depth_coefficient=1.0,
        image_size=8,
        dropout_rate=0.2,
        num_classes=10,
        batch_norm_momentum=0.99,
        batch_norm_epsilon=1e-3,
        drop_connect_rate=0.0,
        depth_divisor=8,
        min_depth=None,
        include_top=True,
    )
    # The width coefficient, which brings the stem to its size, would scale the blocks too.
    decoded = [
        block._replace(
            input_filters=round(block.input_filters * 32 / stem), output_filters=round(block.output_filters * 32 / stem)
        )
        for block in BlockDecoder.decode(list(blocks))
    ]
    network = EfficientNet(decoded, options)
    network.set_swish(memory_efficient=False)
    network._change_in_channels(1)
    return network
