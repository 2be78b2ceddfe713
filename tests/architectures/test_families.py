import itertools

import pytest
import torch

from hypergen.architectures import Architecture
from hypergen.architectures.families import image_classifier_families

CONVOLUTIONAL = [family for family in image_classifier_families() if family not in ("mlp", "mixer", "vit")]


def config_of(family: str, image_size: int = 8, channels: int = 1, **options) -> dict:
    config = {"image_size": image_size, "channels": channels, "num_classes": 7, **options}
    if family == "mlp":
        return {**config, "widths": [16, 24]}
    if family in ("mixer", "vit"):
        return {
            **config,
            "width": 16,
            "depth": 2,
            "patch_size": image_size // 4,
            **({"heads": 2} if family == "vit" else {}),
        }
    return {**config, "depths": [1, 2], **({"growth": 4} if family == "dense" else {"widths": [8, 16]})}


def check(family: str, config: dict) -> torch.nn.Module:
    architecture = Architecture(family, config)
    network = architecture.build()
    images = torch.randn(3, config["channels"], config["image_size"], config["image_size"])
    logits = network(images)
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    untouched = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not untouched
    with torch.device("meta"):
        meta = architecture.build()
    assert {name: p.shape for name, p in meta.named_parameters()} == {n: p.shape for n, p in network.named_parameters()}
    assert all(parameter.is_meta for parameter in meta.parameters())
    return network


@pytest.mark.parametrize(
    ("family", "norm", "head"),
    list(itertools.product(CONVOLUTIONAL, ["batch", "layer", "group", "none"], ["pool", "flatten"])),
)
def test_convolutional_family_norm_and_head(family, norm, head):
    network = check(family, config_of(family, norm=norm, head=head))
    norms = [m for m in network.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.GroupNorm))]
    assert bool(norms) == (norm != "none")


@pytest.mark.parametrize("family", CONVOLUTIONAL)
@pytest.mark.parametrize("downsample", ["max", "average", "conv"])
@pytest.mark.parametrize("stem", ["conv", "strided", "patch"])
def test_stems_and_downsampling_at_an_odd_size(family, downsample, stem):
    check(family, config_of(family, 15, 3, downsample=downsample, stem=stem, head="flatten", head_hidden=5))


@pytest.mark.parametrize("family", image_classifier_families())
@pytest.mark.parametrize(("image_size", "channels"), [(28, 1), (32, 3)])
def test_larger_images(family, image_size, channels):
    check(family, config_of(family, image_size, channels))


@pytest.mark.parametrize(
    ("family", "norm"),
    [("mlp", "batch"), ("mlp", "layer"), ("mlp", "none"), *itertools.product(["mixer", "vit"], ["layer", "none"])],
)
def test_other_family_and_norm(family, norm):
    check(family, config_of(family, norm=norm))


@pytest.mark.parametrize(
    ("family", "option"),
    [
        ("resnet", {"pre_activation": True}),
        ("resnet", {"pre_activation": True, "squeeze_excitation": True}),
        ("inverted_bottleneck", {"squeeze_excitation": True, "expansion": 2}),
        ("depthwise", {"residual": False}),
        ("dilated", {"residual": False, "dilation": 3}),
        ("grouped", {"reduction": 1, "groups": 4}),
        ("bottleneck", {"reduction": 4, "kernel_size": 5, "bias": True}),
        ("vit", {"pooling": "mean", "layer_scale": 0.1, "qkv_bias": False}),
        ("mixer", {"token_hidden": 8, "mlp_ratio": 4}),
    ],
)
def test_options(family, option):
    check(family, config_of(family, **option))


def test_every_activation():
    from hypergen.architectures.families.layers import ACTIVATIONS

    for activation in ACTIVATIONS:
        check("cnn", config_of("cnn", activation=activation))


def test_class_token_and_layer_scale_are_parameters():
    names = dict(Architecture("vit", config_of("vit", layer_scale=0.1)).build().named_parameters())
    assert names["class_token"].shape == (1, 1, 16)
    assert names["positions"].shape == (1, 17, 16)
    assert names["blocks.0.scale1.gamma"].tolist() == pytest.approx([0.1] * 16)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"norm": "instance"}, "unknown norm 'instance'"),
        ({"activation": "swoosh"}, "unknown activation 'swoosh'"),
        ({"head": "attention"}, "unknown head 'attention'"),
        ({"stem": "deep"}, "unknown stem 'deep'"),
        ({"downsample": "blur"}, "unknown pooling 'blur'"),
        ({"widths": [8, 8, 8, 8, 8], "depths": [1] * 5, "downsample": "max"}, "use fewer stages"),
        ({"depths": [1]}, "one width and one depth per stage"),
    ],
)
def test_wrong_option_is_named(option, message):
    with pytest.raises(ValueError, match=message):
        Architecture("cnn", {**config_of("cnn"), **option}).build()
