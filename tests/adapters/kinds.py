"""Small models with adapters of every kind that PEFT's LoRA has."""

import copy
import warnings

import torch
from torch import nn

NAMES = ("plain", "rslora", "patterns", "dora", "biases", "saved", "conv", "embedding", "pissa", "gpt2", "negative")


class Small(nn.Module):
    """An embedding, a convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.conv = nn.Conv1d(12, 8, 3, padding=1)
        self.q_proj = nn.Linear(8, 10)
        self.v_proj = nn.Linear(10, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        return self.head(self.v_proj(self.q_proj(x).tanh()))


def tokens() -> torch.Tensor:
    return torch.arange(10).view(2, 5)


def base(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        import transformers

        config = transformers.GPT2Config(vocab_size=11, n_embd=12, n_layer=2, n_head=2, n_positions=8)
        return transformers.GPT2LMHeadModel(config).eval()
    return Small().eval()


def config(kind: str):
    import peft

    own = {
        "rslora": {"use_rslora": True, "lora_alpha": 3},
        "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 7}},
        "dora": {"use_dora": True},
        "biases": {"lora_bias": True},
        "saved": {"modules_to_save": ["head"]},
        "conv": {"target_modules": ["conv", "q_proj"]},
        "embedding": {"target_modules": ["embed", "q_proj"]},
        "pissa": {"init_lora_weights": "pissa"},
        "gpt2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
        "negative": {"lora_alpha": -3},
    }.get(kind, {})
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], **own})


def adapted(kind: str, seed: int = 1) -> nn.Module:
    """A model with an adapter that does something."""
    import peft

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base(kind), config(kind)).eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn_like(value))
    return model


def loaded(kind: str, folder) -> nn.Module:
    """The base with the adapter of a folder; every key has to match."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*(missing|unexpected|mismatch).*")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base(kind)), folder).eval()


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found = model(tokens())
    return getattr(found, "logits", found)
