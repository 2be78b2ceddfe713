"""Networks of their usual size for colour images of 32 pixels, by name."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

COLOUR_32 = {
    "torchvision/resnet18": {},
    "torchvision/resnet50": {},
    "torchvision/mobilenet_v3_small": {},
    "torchvision/vgg11_bn": {},
    "timm/convnext_atto": {},
    "timm/vit_tiny_patch16_224": {"img_size": 32, "patch_size": 4},
    "timm/resnet10t": {},
    "timm/efficientnet_b0": {},
    "timm/mobilenetv3_large_100": {},
    "timm/regnetx_002": {},
}


class ColourNetwork(NamedTuple):
    """A network of a library at its usual size.

    Attributes:
        name: ``"library/constructor"``.
        kind: As :class:`~experiments.held_out_libraries.networks.HeldOutNetwork` has it.
    """

    name: str
    kind: str = "usual size"

    @property
    def source(self) -> str:
        """The library."""
        return self.name.partition("/")[0]

    def build(self) -> nn.Module:
        """Build the network, which maps images ``[batch, 3, 32, 32]`` to logits ``[batch, 10]``."""
        import hypergen  # noqa: F401  torchvision is imported after it

        library, _, constructor = self.name.partition("/")
        if library == "timm":
            import timm

            return timm.create_model(constructor, num_classes=10, **COLOUR_32[self.name])
        import torchvision

        return torchvision.models.get_model(constructor, num_classes=10, **COLOUR_32[self.name])
