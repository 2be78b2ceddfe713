"""What starting from a donor keeps: functions of grown networks, and pairs of networks of public libraries.

``python -m benchmarks.donor`` prints two tables and, as its last line, the figures as JSON. Networks are small versions
with random parameters (a function is kept or not whatever they are); nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
import transformers
from rich.console import Console
from rich.table import Table
from torch import nn

from hypergen.evaluation.results import Results, Row
from hypergen.generators.donor import map_parameters

IMAGE, TOKENS = torch.zeros(1, 3, 32, 32), {"input_ids": torch.arange(16)[None]}
Build = Callable[[], nn.Module]


def scrambled(build: Build, seed: int) -> nn.Module:
    """A network whose values hide no mistake behind the zeros and ones of initialisation."""
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2)
    return model


def cnn(width: int, norm: bool = True) -> nn.Module:
    """Two convolutions and a classifier on flattened features."""
    norms = [nn.BatchNorm2d(width) if norm else nn.Identity(), nn.BatchNorm2d(2 * width) if norm else nn.Identity()]
    return nn.Sequential(
        nn.Conv2d(3, width, 3), norms[0], nn.ReLU(), nn.Conv2d(width, 2 * width, 3), norms[1], nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip


def mlp(width: int) -> nn.Module:
    """A perceptron with two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 10)
    )


def resnet(width: int, layers: tuple[int, ...] = (2, 2), **options: Any) -> nn.Module:
    """A residual network of timm."""
    return timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, layers=[*layers, 1, 1], channels=(width, 2 * width, 2 * width, 2 * width),
        num_classes=10, stem_width=width, stem_type="deep", **options,
    )  # fmt: skip


def vit(width: int, heads: int, depth: int, **options: Any) -> nn.Module:
    """A vision transformer of timm."""
    return timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=width, num_heads=heads, depth=depth, num_classes=10, **options
    )


def tv_vit(width: int, heads: int, depth: int) -> nn.Module:
    """A vision transformer of torchvision."""
    return torchvision.models.VisionTransformer(32, 8, depth, heads, width, 4 * width, num_classes=10)


def hf(kind: str, **options: Any) -> nn.Module:
    """A model of transformers, by the stem of its classes."""
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, bos_token_id=1, eos_token_id=1, **options)
    heads = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "Model")
    name = next(kind + head for head in heads if hasattr(transformers, kind + head))
    return getattr(transformers, name)(config)


def gpt2(width: int, heads: int, depth: int, tied: bool = True) -> nn.Module:
    """GPT-2."""
    return hf("GPT2", n_embd=width, n_head=heads, n_layer=depth, n_positions=16, tie_word_embeddings=tied)


def decoder(kind: str, width: int, heads: int, groups: int, depth: int) -> nn.Module:
    """A Llama-like decoder."""
    return hf(
        kind, hidden_size=width, num_attention_heads=heads, num_key_value_heads=groups, intermediate_size=2 * width,
        num_hidden_layers=depth, head_dim=8, pad_token_id=0,
    )  # fmt: skip


def encoder(kind: str, width: int, heads: int, depth: int) -> nn.Module:
    """A BERT-like encoder."""
    return hf(
        kind, hidden_size=width, num_attention_heads=heads, intermediate_size=2 * width, num_hidden_layers=depth,
        max_position_embeddings=64,
    )  # fmt: skip


GROWTH: dict[str, tuple[Build, Build, Any, str]] = {
    "mlp x2": (partial(mlp, 32), partial(mlp, 16), IMAGE, "even"),
    "mlp x1.5": (partial(mlp, 24), partial(mlp, 16), IMAGE, "even"),
    "cnn x2": (partial(cnn, 16), partial(cnn, 8), IMAGE, "even"),
    "cnn x1.5": (partial(cnn, 12), partial(cnn, 8), IMAGE, "even"),
    "cnn without norm x2": (partial(cnn, 16, False), partial(cnn, 8, False), IMAGE, "even"),
    "cnn without norm x1.5": (partial(cnn, 12, False), partial(cnn, 8, False), IMAGE, "even"),
    "resnet x2": (partial(resnet, 16), partial(resnet, 8), IMAGE, "even"),
    "resnet x1.5": (partial(resnet, 12), partial(resnet, 8), IMAGE, "even"),
    "resnet deeper": (partial(resnet, 8, (4, 3)), partial(resnet, 8), IMAGE, "identity"),
    "vit x2": (partial(vit, 64, 4, 2), partial(vit, 32, 2, 2), IMAGE, "even"),
    "vit x1.5": (partial(vit, 48, 3, 2), partial(vit, 32, 2, 2), IMAGE, "even"),
    "vit x3": (partial(vit, 96, 6, 2), partial(vit, 32, 2, 2), IMAGE, "even"),
    "vit deeper x2": (partial(vit, 32, 2, 4), partial(vit, 32, 2, 2), IMAGE, "identity"),
    "vit deeper +1": (partial(vit, 32, 2, 3), partial(vit, 32, 2, 2), IMAGE, "identity"),
    "vit with class attention gains x2": (
        partial(vit, 64, 4, 2, init_values=0.1), partial(vit, 32, 2, 2, init_values=0.1), IMAGE, "even",
    ),
    "vit without class token x2": (
        partial(vit, 64, 4, 2, class_token=False, global_pool="avg"),
        partial(vit, 32, 2, 2, class_token=False, global_pool="avg"), IMAGE, "even",
    ),
    "torchvision vit x2": (partial(tv_vit, 64, 4, 2), partial(tv_vit, 32, 2, 2), IMAGE, "even"),
    "torchvision vit deeper": (partial(tv_vit, 32, 2, 4), partial(tv_vit, 32, 2, 2), IMAGE, "identity"),
    "gpt2 x2 tied": (partial(gpt2, 64, 4, 2), partial(gpt2, 32, 2, 2), TOKENS, "even"),
    "gpt2 x2 untied": (partial(gpt2, 64, 4, 2, False), partial(gpt2, 32, 2, 2, False), TOKENS, "even"),
    "gpt2 x1.5": (partial(gpt2, 48, 3, 2), partial(gpt2, 32, 2, 2), TOKENS, "even"),
    "gpt2 deeper": (partial(gpt2, 32, 2, 4), partial(gpt2, 32, 2, 2), TOKENS, "identity"),
    **{
        f"{kind.lower()} x2": (
            partial(decoder, kind, 64, 8, 4, 2), partial(decoder, kind, 32, 4, 2, 2), TOKENS, "even",
        )
        for kind in ("Llama", "Mistral", "Qwen2", "Gemma", "Olmo")
    },
    **{
        f"{kind.lower()} deeper": (
            partial(decoder, kind, 32, 4, 2, 5), partial(decoder, kind, 32, 4, 2, 2), TOKENS, "identity",
        )
        for kind in ("Llama", "Mistral", "Qwen2", "Gemma", "Olmo")
    },
    **{
        f"{kind.lower()} x2": (partial(encoder, kind, 64, 4, 2), partial(encoder, kind, 32, 2, 2), TOKENS, "even")
        for kind in ("Bert", "Roberta", "Electra")
    },
}  # fmt: skip

_T, _V = timm.create_model, torchvision.models
PHOTO = torch.zeros(1, 3, 224, 224)
PAIRS: dict[str, tuple[Build, Build, Any]] = {
    f"{target} <- {donor}": (partial(_T, target, num_classes=10), partial(_T, donor, num_classes=10), PHOTO)
    for target, donor in (
        ("resnet18", "resnet34"), ("resnet34", "resnet18"), ("resnet50", "resnet101"), ("resnet26", "resnet50"),
        ("vit_tiny_patch16_224", "vit_small_patch16_224"), ("vit_small_patch16_224", "vit_tiny_patch16_224"),
        ("deit_tiny_patch16_224", "deit_small_patch16_224"), ("convnext_atto", "convnext_femto"),
        ("convnext_femto", "convnext_pico"), ("convnext_tiny", "convnext_atto"),
        ("mobilenetv3_small_050", "mobilenetv3_small_100"), ("mobilenetv2_050", "mobilenetv2_100"),
        ("efficientnet_b0", "efficientnet_b1"), ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224"),
        ("mixer_s32_224", "mixer_b32_224"), ("regnetx_002", "regnetx_004"), ("densenet121", "densenet169"),
        ("vgg11_bn", "vgg13_bn"), ("poolformer_s12", "poolformer_s24"), ("edgenext_xx_small", "edgenext_x_small"),
        ("mobilenetv4_conv_small_050", "mobilenetv4_conv_small"), ("ghostnet_050", "ghostnet_100"),
        ("repvgg_a0", "repvgg_a1"), ("levit_128s", "levit_128"), ("cait_xxs24_224", "cait_xxs36_224"),
        ("xcit_nano_12_p16_224", "xcit_tiny_12_p16_224"), ("resmlp_12_224", "resmlp_24_224"),
        ("pvt_v2_b0", "pvt_v2_b1"), ("deit3_small_patch16_224", "deit3_medium_patch16_224"),
    )
}  # fmt: skip
PAIRS |= {
    f"torchvision:{name} <- timm:{donor}": (
        partial(getattr(_V, name), num_classes=10), partial(_T, donor, num_classes=10), PHOTO,
    )
    for name, donor in (
        ("resnet18", "resnet18"), ("resnet50", "resnet50"), ("vit_b_32", "vit_base_patch32_224"),
        ("resnet18", "resnet34"), ("convnext_tiny", "convnext_tiny"), ("vgg11_bn", "vgg11_bn"),
        ("mobilenet_v2", "mobilenetv2_100"), ("densenet121", "densenet121"),
    )
}  # fmt: skip

# Small versions: (width, heads, depth) of target and donor, or of the target and another library class's donor.
_SMALL, _LARGE = (32, 4, 2), (64, 8, 3)


def _tokens(kind: str, width: int, heads: int, depth: int) -> nn.Module:
    """A small model of transformers that reads tokens, by the names that its configuration has for its sizes."""
    if kind == "GPT2":
        return gpt2(width, heads, depth)
    if kind == "OPT":
        return hf(
            kind, hidden_size=width, ffn_dim=2 * width, num_attention_heads=heads, num_hidden_layers=depth,
            word_embed_proj_dim=width, pad_token_id=0,
        )  # fmt: skip
    if kind == "Bloom":
        return hf(kind, hidden_size=width, n_head=heads, n_layer=depth)
    if kind == "DistilBert":
        return hf(kind, dim=width, hidden_dim=2 * width, n_heads=heads, n_layers=depth)
    if kind in ("Bert", "Roberta", "Electra", "Albert", "GPTNeoX"):
        return encoder(kind, width, heads, depth)
    return decoder(kind, width, heads, heads // 2, depth)


PAIRS |= {
    f"hf:{target} {sizes[0]} <- hf:{donor} {sizes[1]}": (
        partial(_tokens, target, *sizes[0]), partial(_tokens, donor, *sizes[1]), TOKENS,
    )
    for target, donor, sizes in (
        *((kind, kind, (_SMALL, _LARGE)) for kind in (
            "GPT2", "OPT", "Bloom", "GPTNeoX", "Llama", "Mistral", "Qwen2", "Qwen3", "Phi", "Olmo", "Gemma2", "Bert",
            "Roberta", "Electra", "Albert", "DistilBert",
        )),
        *((kind, kind, (_LARGE, _SMALL)) for kind in ("GPT2", "Llama", "Bert")),
        ("DistilBert", "Bert", (_SMALL, _LARGE)), ("Mistral", "Llama", (_SMALL, _LARGE)),
        ("Qwen2", "Llama", (_SMALL, _LARGE)), ("Roberta", "Bert", (_SMALL, _LARGE)),
    )
}  # fmt: skip


def grow() -> list[tuple[str, float, float, str]]:
    """Every growth: its name, the share of values, the difference of outputs, and what was wrong."""
    rows = []
    for name, (target, donor, inputs, depth) in GROWTH.items():
        try:
            mapping = map_parameters(
                scrambled(target, 0), scrambled(donor, 1), example_inputs=inputs, depth=depth, verify=True
            )
            error = float("nan") if mapping.error is None else mapping.error
            rows.append((name, mapping.share, error, ""))
        except Exception as error:  # a row of its own, not the end of the table
            rows.append((name, 0.0, float("nan"), f"{type(error).__name__}: {error}"[:80]))
    return rows


def pair(kind: str = "") -> list[tuple[str, float, float, float, str]]:
    """Every pair of public networks: its name, the share, the difference of outputs, seconds, what was wrong."""
    rows = []
    for name, (target, donor, inputs) in ((name, pair) for name, pair in PAIRS.items() if name.startswith(kind)):
        begun = time.perf_counter()
        same = name.startswith("torchvision")
        try:
            mapping = map_parameters(target(), donor(), example_inputs=inputs, verify=same)
            error = float("nan") if mapping.error is None else mapping.error
            rows.append((name, mapping.share, error, time.perf_counter() - begun, ""))
        except Exception as error:
            rows.append((name, 0.0, float("nan"), time.perf_counter() - begun, f"{type(error).__name__}: {error}"[:80]))
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", default="", help="pairs whose names begin so, such as hf:; all by default")
    parser.add_argument("--no-growth", action="store_true", help="pairs alone")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    console = Console()
    growths, pairs = [] if arguments.no_growth else grow(), pair(arguments.pairs)
    table = Table("growth", "share", "difference", "", title="Functions of grown networks")
    for name, share, error, wrong in growths:
        table.add_row(name, f"{share:.3f}", f"{error:.1e}", wrong)
    console.print(table)
    table = Table("pair", "share", "difference", "seconds", "", title="Pairs of public networks")
    for name, share, error, seconds, wrong in pairs:
        table.add_row(name, f"{share:.3f}", f"{error:.1e}", f"{seconds:.1f}", wrong)
    console.print(table)
    kept = [error <= 1e-9 for _, _, error, _ in growths if error == error]
    rows = [
        Row("grown_networks_tried", len(growths)),
        Row("grown_networks_that_keep_the_function", sum(kept) / max(len(growths), 1), n=len(growths)),
        Row("pairs_mapped", sum(share > 0 for _, share, *_ in pairs) / max(len(pairs), 1), aim=0.95, n=len(pairs)),
        Row.from_values("share_of_values_mapped", [share for _, share, *_ in pairs], aim=0.9),
    ]
    print(json.dumps(Results("donor", 0, tuple(rows)).to_dict()))


if __name__ == "__main__":
    main()
