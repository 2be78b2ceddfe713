"""The hypernetwork of Text-to-LoRA, rebuilt from its checkpoint without running code from it."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.adapters import Adapter, LowRank
from hypergen.adapters.read import scale_of
from hypergen.errors import CheckpointError, GeneratorError
from hypergen.functional.checkpoint_files import read_tensor_file
from hypergen.functional.files import read_json

WEIGHTS, ARGUMENTS, CONFIG = "hypermod.pt", "args.yaml", "adapter_config.json"
_NOT_READ = ("mean_recon_target", "std_recon_target", "AB_offset")


class TextToLora(nn.Module):
    """Writes a LoRA adapter from the embedding of a task's description, a module and a layer at a time.

    Charakorn et al., *Text-to-LoRA: Instant Transformer Adaption*, 2025, arXiv:2506.06105. The names of parameters are
    those of its checkpoints. A description's embedding is that of the last token of ``gte-large-en-v1.5``, which is not
    part of this.

    Args:
        shapes: Outputs and inputs of each kind of module, such as ``{"q_proj": (4096, 4096)}``, in the order in which
            training numbered them.
        layers: Number of layers.
        rank: Rank of adapters.
        embedding_size: Length of the description's embedding; 0 for none.
        latent_size: Width, of which layer and kind of module take a quarter each.
        head_size: Inputs of the heads.
        shared_heads: Whether one head writes both factors, told by an embedding which (the size M).
        by_rank: Whether heads write one rank at a time (the size S).
        learned_positions: Whether ranks are told apart by learned embeddings, not by rotations.
        head_bias: Whether heads have a bias.

    Shapes:
        embedding: ``[embedding_size]``; factors: down ``[layers, rank, inputs]``, up ``[layers, outputs, rank]``.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, int]],
        layers: int,
        rank: int,
        embedding_size: int = 1024,
        latent_size: int = 128,
        head_size: int = 512,
        shared_heads: bool = False,
        by_rank: bool = False,
        learned_positions: bool = False,
        head_bias: bool = False,
    ) -> None:
        super().__init__()
        self.shapes, self.layers, self.rank = dict(shapes), layers, rank
        self.kinds = tuple(self.shapes)
        self.shared_heads, self.by_rank, self.learned_positions = shared_heads, by_rank, learned_positions
        quarter, half = latent_size // 4, latent_size // 2
        width = 2 * quarter + (half if embedding_size else 0)
        if embedding_size:
            self.task_encoder = nn.Module()
            self.task_encoder.mlp = nn.Sequential(nn.Linear(embedding_size, half), nn.LayerNorm(half))
        self.layer_depth_encoder = nn.Sequential(nn.Embedding(layers, quarter), nn.LayerNorm(quarter))
        self.layer_type_encoder = nn.Sequential(nn.Embedding(len(self.kinds), quarter), nn.LayerNorm(quarter))
        # Identities stand where training had dropout, which the numbers in the checkpoint count.
        self.mixer = nn.Sequential(
            nn.Identity(), nn.Linear(width, 4 * width), nn.SiLU(), nn.Identity(), nn.Linear(4 * width, width), nn.SiLU()
        )
        self.mlp1, self.mlp2 = _Residual(width), _Residual(width)
        self.mlp3 = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Identity(),
            nn.Linear(4 * width, head_size), nn.SiLU(),
        )  # fmt: skip
        if by_rank and learned_positions:
            self.pos_emb = nn.Sequential(nn.Embedding(rank, width), nn.LayerNorm(width))
        if shared_heads:
            self.out_emb = nn.ModuleDict(
                {kind: nn.ParameterDict({part: torch.zeros(width) for part in "AB"}) for kind in self.kinds}
            )
            self.out_emb_norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict()
        for kind, (outputs, inputs) in self.shapes.items():
            size = max(inputs, outputs) if shared_heads else inputs + outputs
            self.heads[kind] = nn.Linear(head_size, size * (1 if by_rank else rank), bias=head_bias)
        self.config: dict[str, Any] = {}
        # What is done to the heads' outputs: divided, multiplied by deviations, and added to.
        self.divisor = 1.0
        self.deviations: dict[str, Tensor] = {}
        self.offsets: dict[str, Tensor] = {}

    @classmethod
    def from_checkpoint(cls, folder: str | os.PathLike[str], order: Sequence[str] | None = None) -> TextToLora:
        """Load ``hypermod.pt`` with ``args.yaml`` and ``adapter_config.json`` beside it; nothing in them is run.

        Args:
            folder: Their folder.
            order: The order in which training numbered the kinds of modules. It enumerated a set, so it differs from
                run to run and no file says it: load the checkpoint in each of :meth:`orders` and take the one whose
                adapters work. By default that of the configuration.

        Raises:
            CheckpointError: A file is missing or holds something else.
        """
        folder = Path(folder)
        state = read_tensor_file(folder / WEIGHTS)
        config = read_json(folder / CONFIG)
        arguments = _arguments(folder / ARGUMENTS)
        try:
            made = cls._empty(state, config, arguments, order)
        except (KeyError, IndexError) as error:
            raise CheckpointError(
                f"{str(folder / WEIGHTS)!r} is no checkpoint of Text-to-LoRA: it lacks {error}."
            ) from error
        own = {key: value.float() for key, value in state.items() if key.partition(".")[0] not in _NOT_READ}
        try:
            lost = made.load_state_dict(own, strict=False)
        except RuntimeError as error:  # of tensors of other shapes
            raise CheckpointError(f"{str(folder / WEIGHTS)!r} does not fit {ARGUMENTS}: {str(error)[:300]}") from error
        # Rotations are computed, not read.
        if lost.missing_keys or [key for key in lost.unexpected_keys if not key.startswith("rotary_emb")]:
            raise CheckpointError(
                f"{str(folder / WEIGHTS)!r} does not fit {ARGUMENTS}: missing {lost.missing_keys[:3]}, unexpected "
                f"{lost.unexpected_keys[:3]}."
            )
        return made.eval()

    @classmethod
    def _empty(
        cls, state: Mapping[str, Tensor], config: dict[str, Any], arguments: dict[str, Any], order: Sequence[str] | None
    ) -> TextToLora:
        encoder = arguments.get("encoder_type", "linear")
        if encoder != "linear":
            raise CheckpointError(
                f"This checkpoint of Text-to-LoRA has the encoder {encoder!r}; only 'linear' is read."
            )
        known = list(config["target_modules"])
        kinds = list(order or known)
        if sorted(kinds) != sorted(known):
            raise CheckpointError(f"The order {kinds} is none of the modules {sorted(known)}.")
        down = {kind: state[f"AB_offset.A.{kind}"] for kind in kinds}
        up = {kind: state[f"AB_offset.B.{kind}"] for kind in kinds}
        encoder_weight = state.get("task_encoder.mlp.0.weight")
        made = cls(
            {kind: (up[kind].shape[1], down[kind].shape[2]) for kind in kinds},
            down[kinds[0]].shape[0],
            down[kinds[0]].shape[1],
            0 if encoder_weight is None else encoder_weight.shape[1],
            4 * state["layer_depth_encoder.0.weight"].shape[1],
            state["mlp3.4.weight"].shape[0],
            bool(arguments.get("shared_AB_head")),
            bool(arguments.get("autoreg_gen")),
            bool(arguments.get("learnable_pos_emb")),
            f"heads.{kinds[0]}.bias" in state,
        )
        made.config = dict(config)
        offsets = {f"{part}.{kind}": state[f"AB_offset.{part}.{kind}"].float() for part in "AB" for kind in kinds}
        if arguments.get("training_task", "sft") == "sft":
            made.offsets = offsets
        elif not arguments.get("factorized"):
            if arguments.get("pred_z_score"):
                raise CheckpointError(
                    "This checkpoint predicts z-scores of ΔW (pred_z_score without factorized), which have no factors. "
                    "The authors' own export raises on it, too."
                )
            made.divisor = math.sqrt(arguments.get("delta_w_scaling", 10_000))
        else:
            made.offsets = offsets
            if arguments.get("pred_z_score"):
                mean, std = (
                    {key: state[f"{name}_recon_target.{key}"].float() for key in offsets} for name in ("mean", "std")
                )
                made.deviations = {key: value + 1e-10 for key, value in std.items()}
                made.offsets = {key: offsets[key] + mean[key] for key in offsets}
        return made

    @staticmethod
    def orders(kinds: Sequence[str]) -> list[tuple[str, ...]]:
        """Every order in which training may have numbered the kinds of modules."""
        return list(itertools.permutations(kinds))

    def forward(self, embedding: Tensor | None, kind: str) -> tuple[Tensor, Tensor]:
        """Factors of a kind of module, all layers: down ``[layers, rank, inputs]``, up ``[layers, outputs, rank]``."""
        numbers = torch.arange(self.layers)
        depth = self.layer_depth_encoder(numbers)
        of_kind = self.layer_type_encoder(torch.tensor([self.kinds.index(kind)])).expand(self.layers, -1)
        parts = [depth, of_kind]
        if embedding is not None:
            encoder: Any = self.task_encoder.mlp
            parts.insert(0, encoder(embedding.reshape(1, -1)).expand(self.layers, -1))
        state = self.mlp1(self.mixer(torch.cat(parts, -1)))
        outputs, inputs = self.shapes[kind]
        head = self.heads[kind]
        if self.shared_heads:
            own: Any = self.out_emb[kind]
            each = []
            for part, size in (("A", inputs), ("B", outputs)):
                told = self.mlp2(state + self.out_emb_norm(own[part]))
                written = head(self.mlp3(self._by_rank(told, told_apart=True) if self.by_rank else told))
                each.append(written.view(self.layers, self.rank, -1)[..., :size])
            down, up = each
        elif self.by_rank:
            down, up = head(self.mlp3(self._by_rank(state))).split((inputs, outputs), -1)
        else:
            flat_down, flat_up = head(self.mlp3(self.mlp2(state))).split((self.rank * inputs, self.rank * outputs), -1)
            down, up = flat_down.view(self.layers, self.rank, inputs), flat_up.view(self.layers, self.rank, outputs)
        factors = {"A": down / self.divisor, "B": up.mT / self.divisor}
        for part, value in factors.items():
            key = f"{part}.{kind}"
            value = value * self.deviations[key] if key in self.deviations else value
            factors[part] = value + self.offsets[key] if key in self.offsets else value
        return factors["A"], factors["B"]

    def _by_rank(self, state: Tensor, told_apart: bool = False) -> Tensor:
        """States ``[layers, rank, width]``, a rank each."""
        each = state[:, None].expand(-1, self.rank, -1)
        if self.learned_positions:
            positions = self.pos_emb(torch.arange(self.rank))[None]
            return each + self.mlp2(positions) if told_apart else self.mlp2(each + positions)
        width = state.shape[-1]
        frequencies = 10_000 ** -(torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(self.rank).float(), frequencies).repeat(1, 2)
        first, second = each.chunk(2, -1)
        return self.mlp2(each * angles.cos() + torch.cat([-second, first], -1) * angles.sin())

    @torch.no_grad()
    def write(self, embedding: Tensor | None, base: nn.Module) -> Adapter:
        """The adapter of a description.

        Args:
            embedding: The description's embedding, ``[embedding_size]``; None for a checkpoint without.
            base: The base model, which may be on the meta device: the names of its modules are read.

        Raises:
            GeneratorError: The base has another number of these modules.
        """
        modules: dict[str, LowRank] = {}
        for kind in self.kinds:
            names = [name for name, _ in base.named_modules() if name.rpartition(".")[2] == kind]
            if len(names) != self.layers:
                raise GeneratorError(
                    f"The base has {len(names)} modules {kind!r}; the checkpoint writes {self.layers}. Load the base "
                    f"that it is for: {self.config.get('base_model_name_or_path')!r}."
                )
            down, up = self(embedding, kind)
            for number, name in enumerate(names):
                modules[name] = LowRank(up[number], down[number], scale_of(self.config, name, self.rank))
        return Adapter(modules, {}, self.config, "text_to_lora")


class _Residual(nn.Module):
    """An MLP beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Identity(), nn.Linear(4 * width, width),
            nn.SiLU(),
        )  # fmt: skip

    def forward(self, state: Tensor) -> Tensor:
        """``state`` and what the MLP adds."""
        return state + self.mlp(state)


def _arguments(file: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{str(file)!r} is not readable YAML: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{str(file)!r} holds a {type(found).__name__}; expected arguments by name.")
    return found
