"""Learning to change a SIREN's weights so that it draws an edited picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments.siren_digits.zoo import flip_signs, render
from hypergen.architectures.families.siren import pixel_coordinates
from hypergen.functional.stacked_module import StackedModule
from hypergen.generators.latent_diffusion.autoencoder_training import linear_decay
from hypergen.graph import trace
from hypergen.metanets import EquivariantMetanetwork, GraphMetanetwork

_EVALUATED_TOGETHER = 256


def dilate(pictures: Tensor) -> Tensor:
    """Each pixel becomes the brightest of itself and its four neighbours; pictures are [networks, height, width]."""
    padded = F.pad(pictures, (1, 1, 1, 1), value=-torch.inf)
    shifts = (padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    return torch.stack([pictures, *shifts]).amax(0)


def raise_contrast(pictures: Tensor) -> Tensor:
    """Twice as far from grey, as far as black and white allow; pictures are [networks, height, width], from -1 to 1."""
    return (2 * pictures).clamp(-1, 1)


EDITS: dict[str, Callable[[Tensor], Tensor]] = {"dilate": dilate, "contrast": raise_contrast}


class SirenEditing(pl.LightningModule):
    """Minimises the squared error of what SIRENs draw once a metanetwork has changed their weights.

    The metanetwork is equivariant and starts from no change; what it learns from are pixels alone, never the weights of
    other networks.

    Args:
        sirens: What the networks are.
        networks: [networks, *shape] by parameter.
        pictures: What they should draw, [networks, height, width].
        hidden: Channels.
        layers: Rounds of messages.
        message: Their form; see :class:`GraphMetanetwork`.
        steps: Number of steps of training.
        batch_size: Networks per step.
        learning_rate: Its peak; it decays linearly.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Until the peak.
        seed: Random seed of batches and augmentation.
    """

    def __init__(
        self,
        sirens: StackedModule,
        networks: Mapping[str, Tensor],
        pictures: Tensor,
        *,
        hidden: int = 32,
        layers: int = 4,
        message: Any = "product",
        steps: int = 1000,
        batch_size: int = 64,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sirens, self.networks, self.pictures = sirens, dict(networks), pictures
        graph = trace(sirens.module, pixel_coordinates(2, 2))
        self.graph, self.groups = graph.parameter_graph(), graph.symmetry().simple_groups
        self.metanetwork = EquivariantMetanetwork(GraphMetanetwork(1, hidden, layers, message))
        torch.nn.init.zeros_(self.metanetwork.out.weight)
        torch.nn.init.zeros_(self.metanetwork.out.bias)
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps

    def forward(self, networks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The networks with changed weights."""
        changes = self.graph.to_params(self.metanetwork(self.graph, networks))
        return {name: value + changes[name] for name, value in networks.items()}

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of networks, in a new order each epoch."""
        random = torch.Generator().manual_seed(self.seed)
        return DataLoader(range(len(self.pictures)), self.batch_size, shuffle=True, generator=random)  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """One step on a batch of networks."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        networks = {name: value[batch.cpu()] for name, value in self.networks.items()}
        networks = flip_signs(networks, self.groups, random)
        edited = self({name: value.to(self.device) for name, value in networks.items()})
        wanted = self.pictures[batch.cpu()].to(self.device)
        loss = F.mse_loss(render(self.sirens, edited, (wanted.shape[1], wanted.shape[2])), wanted)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def edit(self, networks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The networks with changed weights, [networks, *shape] by parameter."""
        count = len(next(iter(networks.values())))
        parts = [
            self({name: value[start : start + _EVALUATED_TOGETHER] for name, value in networks.items()})
            for start in range(0, count, _EVALUATED_TOGETHER)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in networks}

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay."""
        return linear_decay(
            self, list(self.parameters()), self.learning_rate, self.weight_decay, self.warmup_steps, self.steps
        )
