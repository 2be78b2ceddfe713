"""Small networks from the constructors of timm and torchvision; both come with ``hypergen-weights[vision]``.

Every template takes the shape of images and logits, a width, a depth and a variant, a number that selects among the
constructor's options.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hypergen.architectures.idioms import timm_networks, torchvision_networks
from hypergen.architectures.idioms.library_shapes import Shape
from hypergen.errors import HypergenError

VARIANTS = 24


TEMPLATES: dict[str, Callable[[Shape, int, int, int], nn.Module]] = {
    name: template
    for module in (timm_networks, torchvision_networks)
    for name, template in vars(module).items()
    if name.startswith(("timm_", "torchvision_"))
}


def library_network(
    image_size: int, channels: int, num_classes: int, width: int, depth: int, template: str, variant: int
) -> nn.Module:
    """Build a network of a library.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        width: Channels of the first stage, or size of a token.
        depth: Number of blocks.
        template: A key of :data:`TEMPLATES`.
        variant: Which of the constructor's options are taken.

    Raises:
        HypergenError: The library is not installed.
    """
    try:
        return TEMPLATES[template](Shape(image_size, channels, num_classes), width, depth, variant)
    except ImportError as error:
        raise HypergenError(
            f"{template!r} needs timm and torchvision, which come with hypergen-weights[vision]; install them, or "
            f"leave the idioms of 'library' out of the space ({error})"
        ) from error
