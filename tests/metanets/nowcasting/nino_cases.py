"""Networks, histories and checkpoints by formula, which the published implementation was run on, too."""

from types import SimpleNamespace

import torch
from torch import nn


def wave(shape, phase: float, scale: float = 1.0) -> torch.Tensor:
    """Numbers between -scale and scale that look random, the same everywhere."""
    count = torch.Size(shape).numel()
    return (scale * torch.sin(torch.arange(count, dtype=torch.float64) * 2.3 + phase * 1.7)).float().view(shape)


def published_checkpoint(perceptron: bool, hidden: int = 8) -> dict:
    """What the released files hold, with a smaller width."""
    if perceptron:
        shapes = {"edge_proj.fc.0": (hidden, 5), **{f"edge_mlp.fc.{i}": (hidden, hidden) for i in (0, 2, 4)}}
        shapes["edge_mlp.fc.6"] = (40, hidden)
    else:
        shapes = {"edge_proj.fc.0": (hidden, 45), "node_proj.fc.0": (hidden, 8)}
        for i in range(3):
            shapes[f"gnn.convs.{i}.edge_encoder"] = (2 * hidden, hidden)
            shapes[f"gnn.convs.{i}.pre_nns.0.0"] = shapes[f"gnn.convs.{i}.post_nns.0.0"] = (hidden, 2 * hidden)
            shapes[f"gnn.convs.{i}.lin"] = (hidden, hidden)
        for i in range(2):
            shapes |= {f"gnn.edge_update.{i}.{name}": (hidden, hidden) for name in ("lin_e", "lin_s", "lin_t", "lin1")}
        shapes |= {"edge_out.fc.0": (hidden, hidden), "edge_out.fc.2": (360, hidden)}
    state = {"layer_embed.weight": wave((15, hidden), 0.5, 1.0)}
    for number, (name, shape) in enumerate(shapes.items()):
        state[f"{name}.weight"] = wave(shape, number, 1.0)
        state[f"{name}.bias"] = wave(shape[:1], number + 0.3, 0.2)
    arguments = {"hid": hidden, "gnn": False} if perceptron else {"hid": hidden, "wte_pos_enc": False}
    return {"state_dict": state, "model_args": arguments}


class Named(nn.Module):
    """A module with parameters of these names and shapes."""

    def __init__(self, shapes: dict, config: SimpleNamespace | None = None, outputs_last: tuple[str, ...] = ()):
        super().__init__()
        self.config = config
        for name, shape in shapes.items():
            module: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            setattr(module, leaf, nn.Parameter(torch.zeros(shape)))
            if path[-1] in outputs_last:
                module.nf = shape[-1]


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10),
    )  # fmt: skip


def gpt2(width: int = 6, vocabulary: int = 11, positions: int = 3) -> nn.Module:
    shapes = {"wte.weight": (vocabulary, width), "wpe.weight": (positions, width)}
    for block in ("h.0.", "h.1."):
        for norm, layers in (
            ("ln_1", {"attn.c_attn": 3 * width, "attn.c_proj": width}),
            ("ln_2", {"mlp.c_fc": 4 * width, "mlp.c_proj": width}),
        ):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
            for name, outputs in layers.items():
                inputs = 4 * width if name == "mlp.c_proj" else width
                shapes |= {f"{block}{name}.weight": (inputs, outputs), f"{block}{name}.bias": (outputs,)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    return Named(shapes, SimpleNamespace(n_head=2), ("c_attn", "c_proj", "c_fc"))


def llama(width: int = 12, hidden: int = 24, heads: int = 6, key_heads: int = 2, vocabulary: int = 15) -> nn.Module:
    keys = width // heads * key_heads
    shapes = {"model.embed_tokens.weight": (vocabulary, width)}
    for block in ("model.layers.0.", "model.layers.1."):
        shapes |= {
            f"{block}self_attn.q_proj.weight": (width, width), f"{block}self_attn.k_proj.weight": (keys, width),
            f"{block}self_attn.v_proj.weight": (keys, width), f"{block}self_attn.o_proj.weight": (width, width),
            f"{block}mlp.gate_proj.weight": (hidden, width), f"{block}mlp.up_proj.weight": (hidden, width),
            f"{block}mlp.down_proj.weight": (width, hidden), f"{block}input_layernorm.weight": (width,),
            f"{block}post_attention_layernorm.weight": (width,),
        }  # fmt: skip
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (vocabulary, width)}
    return Named(shapes, SimpleNamespace(num_attention_heads=heads, num_key_value_heads=key_heads))


def history(model: nn.Module) -> list[dict[str, torch.Tensor]]:
    """Five states of one network, [1, …] per parameter."""
    parameters = list(model.named_parameters())
    return [
        {
            name: (
                wave(p.shape, number, 0.3)
                + step * wave(p.shape, number + 0.4, 0.02)
                + wave(p.shape, 0.1 * step + number, 0.01)
            )[None]
            for number, (name, p) in enumerate(parameters)
        }
        for step in range(5)
    ]


def some(changes: torch.Tensor) -> list[float]:
    """Six of many numbers, and their sum."""
    return [*changes[torch.linspace(0, len(changes) - 1, 6).long()].tolist(), float(changes.double().sum())]
