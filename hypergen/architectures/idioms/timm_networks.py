"""Small networks from timm's constructors; see :mod:`hypergen.architectures.idioms.library`."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from hypergen.architectures.idioms.library_shapes import Shape, heads_of, patch_of


def timm_vit(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Vision transformers with the options of timm: class token or pooling, norms, parallel blocks, gated parts."""
    from timm.layers import GluMlp, SwiGLU
    from timm.models import vision_transformer as module

    options: list[dict[str, Any]] = [
        {},
        {"class_token": False, "global_pool": "avg"},
        {"init_values": 0.1},
        {"pre_norm": True},
        {"qk_norm": True, "class_token": False, "global_pool": "avg"},
        {"global_pool": "map", "class_token": False},
        {"block_fn": module.ParallelScalingBlock},
        {"block_fn": module.ResPostBlock, "init_values": 0.1},
        {"mlp_layer": partial(GluMlp, gate_last=True)},
        {"mlp_layer": SwiGLU, "reg_tokens": 2},
        {"fc_norm": True, "global_pool": "avg"},
        {"no_embed_class": True},
    ]
    return module.VisionTransformer(
        img_size=shape.image_size,
        patch_size=patch_of(shape.image_size, variant),
        embed_dim=width,
        depth=depth,
        num_heads=heads_of(width, variant),
        mlp_ratio=(2.0, 4.0, 3.0)[variant % 3],
        qkv_bias=variant % 5 != 0,
        **options[variant % len(options)],
        **shape.timm,
    )


def timm_eva(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """EVA: rotary positions, split projections, SwiGLU."""
    from timm.models.eva import Eva

    options: list[dict[str, Any]] = [
        {"use_rot_pos_emb": True, "swiglu_mlp": True},
        {"use_rot_pos_emb": True, "qkv_fused": False, "use_abs_pos_emb": False},
        {"use_post_norm": True},
        {"qkv_fused": False, "scale_mlp": True, "swiglu_mlp": True},
    ]
    return Eva(
        img_size=shape.image_size,
        patch_size=patch_of(shape.image_size, variant),
        embed_dim=width,
        depth=depth,
        num_heads=heads_of(width, variant),
        mlp_ratio=2.0,
        global_pool="avg" if variant % 2 else "token",
        head_init_scale=1.0,
        **options[variant % len(options)],
        **shape.timm,
    )


def timm_beit(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """BEiT: relative positions, separate biases."""
    from timm.models.beit import Beit

    return Beit(
        img_size=shape.image_size,
        patch_size=patch_of(shape.image_size, variant),
        embed_dim=width,
        depth=depth,
        num_heads=heads_of(width, variant),
        mlp_ratio=2.0,
        init_values=0.1 if variant % 2 else None,
        use_rel_pos_bias=variant % 3 == 0,
        head_init_scale=1.0,
        **shape.timm,
    )


def timm_cait(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """CaiT and DeiT's distilled transformers."""
    from timm.models.cait import Cait
    from timm.models.deit import VisionTransformerDistilled

    size: dict[str, Any] = {
        "img_size": shape.image_size,
        "patch_size": patch_of(shape.image_size, variant),
        "embed_dim": width,
    }
    size |= {"depth": depth, "num_heads": heads_of(width, variant), "mlp_ratio": 2.0}
    if variant % 2:
        return VisionTransformerDistilled(**size, **shape.timm)
    return Cait(**size, depth_token_only=1, init_values=0.1, **shape.timm)


def timm_mixer(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """MLP-mixer, ResMLP and gMLP."""
    from timm.layers import GatedMlp, GluMlp
    from timm.models import mlp_mixer as module

    options: list[dict[str, Any]] = [
        {},
        {"block_layer": module.ResBlock, "norm_layer": module.Affine, "mlp_ratio": 4.0},
        {"block_layer": module.SpatialGatingBlock, "mlp_layer": GatedMlp, "mlp_ratio": 4.0},
        {"mlp_layer": GluMlp, "mlp_ratio": (1.0, 4.0)},
    ]
    return module.MlpMixer(
        img_size=shape.image_size,
        patch_size=patch_of(shape.image_size, variant),
        num_blocks=depth,
        embed_dim=width,
        **options[variant % len(options)],
        **shape.timm,
    )


def timm_convmixer(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """ConvMixer."""
    from timm.models.convmixer import ConvMixer

    return ConvMixer(width, depth, kernel_size=(3, 5, 7)[variant % 3], patch_size=1 + variant % 2, **shape.timm)


def timm_resnet(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """ResNets and their variants: deep stems, pooled shortcuts, channel attention, group norm."""
    from timm.layers import GroupNorm
    from timm.models import resnet as module

    bottleneck = variant % 4 == 3
    channels = (width, width, 2 * width, 2 * width) if variant % 2 else (width, 2 * width, 2 * width, 4 * width)
    options: list[dict[str, Any]] = [
        {},
        {"stem_type": "deep", "avg_down": True},
        {"block_args": {"attn_layer": "se"}},
        {"act_layer": nn.SiLU},
        {"block_args": {"attn_layer": "eca"}, "avg_down": True},
        {"norm_layer": GroupNorm},
    ]
    options_here = options[variant % len(options)]
    if "norm_layer" in options_here:
        options_here = {"norm_layer": partial(GroupNorm, num_groups=4)}
    return module.ResNet(
        module.Bottleneck if bottleneck else module.BasicBlock,
        [max(1, (depth + 3 - stage) // 4) for stage in range(4)],
        channels=channels,
        stem_width=width if options_here.get("stem_type") != "deep" else max(width // 2, 8),
        cardinality=2 if bottleneck and variant % 8 == 7 else 1,
        **options_here,
        **shape.timm,
    )


def timm_resnetv2(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """ResNets with norms first, of standardised or plain convolutions."""
    from timm.layers import BatchNormAct2d, GroupNormAct, create_conv2d
    from timm.models.resnetv2 import ResNetV2

    options: dict[str, Any] = {"norm_layer": partial(GroupNormAct, num_groups=4)}
    if variant % 2:
        options = {"norm_layer": BatchNormAct2d, "conv_layer": create_conv2d}
    return ResNetV2(
        layers=[max(1, depth // 2), max(1, depth // 2)],
        channels=(2 * width, 4 * width),
        stem_chs=width,
        stem_type=("", "fixed", "deep")[variant % 3],
        avg_down=variant % 5 == 0,
        **options,
        **shape.timm,
    )


def timm_normfree(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Networks without norms: standardised weights with gains."""
    from timm.models.nfnet import NfCfg, NormFreeNet

    stages = 2 + variant % 2
    config = NfCfg(
        depths=(max(1, depth // stages),) * stages,
        channels=(2 * width, 3 * width, 4 * width)[:stages],
        stem_chs=width,
        ch_div=4,
        group_size=4 if variant % 3 == 0 else None,
        attn_layer="se" if variant % 2 else None,
        attn_kwargs={"rd_ratio": 0.5},
        skipinit=variant % 4 == 1,
        act_layer=("relu", "silu", "gelu")[variant % 3],
    )
    return NormFreeNet(config, **shape.timm)


_MOBILE = (
    ["ds_r1_k3_s1_c{a}", "ir_r{n}_k3_s2_e4_c{b}"],
    ["ds_r1_k3_s1_c{a}_se0.25", "ir_r{n}_k3_s2_e3_c{b}_se0.25", "ir_r{n}_k5_s1_e3_c{c}_se0.25"],
    ["er_r1_k3_s1_e2_c{a}", "er_r{n}_k3_s2_e3_c{b}", "ir_r1_k3_s1_e4_c{c}_se0.25"],
    ["ds_r1_k3_s1_c{a}_nre", "ir_r{n}_k5_s2_e4_c{b}_se0.25_nre", "ir_r{n}_k3_s1_e3_c{c}"],
)


def timm_mobile(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Networks of the EfficientNet and MobileNetV3 builder."""
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet
    from timm.models.mobilenetv3 import MobileNetV3

    numbers = {"a": width, "b": width + width // 2, "c": 2 * width, "n": max(1, depth // 2)}
    blocks = decode_arch_def([[stage.format(**numbers)] for stage in _MOBILE[variant % len(_MOBILE)]])
    options: dict[str, Any] = {"stem_size": width, "num_features": 4 * width, "block_args": blocks}
    options["act_layer"] = (nn.ReLU6, nn.SiLU, nn.Hardswish, nn.ReLU)[variant % 4]
    options["round_chs_fn"] = lambda channels, *_, **__: int(channels)
    return (MobileNetV3 if variant % 3 == 2 else EfficientNet)(**options, **shape.timm)


def timm_metaformer(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """PoolFormer and ConvFormer."""
    from timm.models import metaformer as module

    mixers = [module.Pooling, module.SepConv, module.Pooling, module.SepConv]
    options: dict[str, Any] = {"token_mixers": mixers[variant % 4], "use_mlp_head": variant % 3 == 0}
    if variant % 4 == 0:
        options |= {"mlp_act": nn.GELU, "mlp_bias": True, "layer_scale_init_values": 0.1}
        options |= {"norm_layers": module.GroupNorm1, "res_scale_init_values": None, "downsample_norm": None}
    dims = (32 * max(1, width // 32), 32 * max(1, width // 32) * (2 if variant % 2 else 1))
    return module.MetaFormer(depths=(max(1, depth // 2),) * 2, dims=dims, **options, **shape.timm)


def timm_convnext(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """ConvNeXt, also with global response normalisation."""
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(
        depths=tuple(max(1, (depth + 3 - stage) // 4) for stage in range(4)),
        dims=(width, width, 2 * width, 2 * width),
        patch_size=1,
        kernel_sizes=(7, 3, 5)[variant % 3],
        ls_init_value=0.1 if variant % 2 else None,
        conv_mlp=variant % 3 == 1,
        use_grn=variant % 4 == 2,
        **shape.timm,
    )


def timm_dense(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """DenseNets."""
    from timm.models.densenet import DenseNet

    growth = max(4, width // 4)
    blocks = (max(1, depth // 2), max(1, depth - depth // 2))
    stem = ("", "deep", "deep_tiered")[variant % 3]
    return DenseNet(growth_rate=growth, block_config=blocks, bn_size=2 + variant % 3, stem_type=stem, **shape.timm)


def timm_vgg(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """VGG with its convolutional head."""
    from timm.models.vgg import VGG

    norm = nn.BatchNorm2d if variant % 2 else None
    cfg = [width] * max(1, depth // 2) + ["M"] + [2 * width] * max(1, depth // 2)
    return VGG(cfg, mlp_ratio=0.01 * (1 + variant % 4), norm_layer=norm, act_layer=nn.ReLU, **shape.timm)


def timm_regnet(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Networks of the bring-your-own-blocks builder."""
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

    kinds = ("basic", "bottle", "rep", "dark", "self_attn")[variant % 4 : variant % 4 + 1]
    blocks = tuple(
        ByoBlockCfg(
            type=kinds[0], d=max(1, depth // 2), c=channels, s=stride, gs=0, br=0.5 if kinds[0] != "rep" else 1.0
        )
        for channels, stride in ((width, 1), (2 * width, 2))
    )
    config = ByoModelCfg(
        blocks=blocks,
        stem_chs=width,
        stem_type="rep" if kinds[0] == "rep" else "3x3",
        stem_pool=None,
        attn_layer="se" if variant % 3 == 0 else None,
        act_layer=("relu", "silu")[variant % 2],
    )
    return ByobNet(config, **shape.timm)


def timm_swin(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Swin transformers."""
    from timm.models.swin_transformer import SwinTransformer

    heads = heads_of(width, variant)
    return SwinTransformer(
        img_size=shape.image_size,
        patch_size=1 + variant % 2,
        embed_dim=width,
        depths=(2, max(1, depth - 2)),
        num_heads=(heads, heads),
        window_size=2 if variant % 2 else 4,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        **shape.timm,
    )


def timm_pyramid(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """Pyramid vision transformers."""
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    return PyramidVisionTransformerV2(
        depths=(max(1, depth // 2),) * 2,
        embed_dims=(width, width + width % 16 if variant % 2 else 2 * width),
        num_heads=(1, 2),
        sr_ratios=(1, 1),
        mlp_ratios=(2.0, 2.0),
        linear=variant % 3 == 0,
        **shape.timm,
    )


def timm_star(shape: Shape, width: int, depth: int, variant: int) -> nn.Module:
    """StarNet, MambaOut and GhostNet."""
    from timm.models.ghostnet import GhostNet
    from timm.models.mambaout import MambaOut
    from timm.models.starnet import StarNet

    each = max(1, depth // 2)
    if variant % 3 == 0:
        return StarNet(base_dim=width, depths=[each, each], mlp_ratio=2, **shape.timm)
    if variant % 3 == 1:
        dims = (width, 2 * width)
        return MambaOut(depths=(each, each), dims=dims, kernel_size=3, downsample="conv", **shape.timm)
    config = [[[3, width, width, 0, 1]], [[3, 2 * width, 2 * width, 0.25, 2]]]
    return GhostNet(config, drop_rate=0.0, **shape.timm)
