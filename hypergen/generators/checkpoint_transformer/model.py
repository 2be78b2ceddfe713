"""A diffusion transformer over weights that takes a network from one loss to another (G.pt)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.functional import expected_shapes
from hypergen.generators.example import GeneratorExample, example_inputs, example_target
from hypergen.generators.registry import register_generator
from hypergen.generators.tokens.unit_tokens import UnitTokens
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph

_KEYS = ("metric", "start", "start_metric")


@register_generator
class CheckpointTransformer(ZooGenerator):
    """Takes a network at one loss to a network at another in one step: p(θ' | θ, loss now, loss wanted).

    Peebles, Radosavovic, Brooks, Efros, Malik, *Learning to Learn with Generative Models of Neural Network
    Checkpoints*, 2022 (arXiv 2209.12892). A transformer reads tokens of the noised θ' and of θ with the time of the
    diffusion and the two losses, and predicts θ' as θ plus a change, which is zero before training:
    ``θ' ≈ θ + s ⊙ f(θ'_t, θ, t, L, L')``, s the zoo's mean change of each tensor. Tokens are hidden units
    (:class:`UnitTokens`), so the transformer does not care about their order within a group.

    A condition is ``{"metric": loss wanted}``, and may hold ``"start"``, the parameters to start from by name (the
    target's own by default), and ``"start_metric"``, their loss (by default that of the zoo's initial networks).

    Args:
        layouts: Those of the zoo: each ``{"shapes": {name: shape}, "groups": [[[name, axis], ...], ...]}``, the groups
            being the permutation groups (``graph.symmetry()``).
        width: Width of the transformer.
        depth: Its blocks.
        heads: Number of attention heads.
        num_train_timesteps: Number of timesteps of the diffusion, with linear betas.
        sampling_steps: Number of sampling steps of DDIM.
        frequencies: How many sines and cosines describe a loss.

    Shapes:
        A block of tokens is ``[networks, units, values]``; times, losses ``[networks]``.
    """

    metric_mean: Tensor
    metric_std: Tensor
    initial_metric: Tensor

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Any]],
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        num_train_timesteps: int = 1000,
        sampling_steps: int = 20,
        frequencies: int = 128,
    ) -> None:
        super().__init__()
        self.layouts = [UnitTokens(layout["shapes"], layout.get("groups", ())) for layout in layouts]
        if not self.layouts:
            raise GeneratorError("A CheckpointTransformer needs the layouts of its zoo. Pass at least one.")
        self.sampling_steps = sampling_steps
        self.readers, self.writers, self.kinds = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        for layout in self.layouts:
            # Noised and starting values of a token are read side by side.
            self.readers.append(nn.ModuleList(nn.Linear(2 * values, width) for _, values in layout.sizes))
            self.writers.append(nn.ModuleList(nn.Linear(width, values) for _, values in layout.sizes))
            # Units of a group are alike but for their values; rows of other tensors have places of their own.
            places = [1 if number < len(layout.groups) else count for number, (count, _) in enumerate(layout.sizes)]
            self.kinds.append(0.02 * torch.randn(sum(places), width))
        self.waves = Timesteps(frequencies, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.scalars = nn.ModuleList(TimestepEmbedding(frequencies, width) for _ in range(4))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        for parameter in self.writers.parameters():
            nn.init.zeros_(parameter)
        # Per layout and tensor: what values and changes are divided by.
        for number, layout in enumerate(self.layouts):
            self.register_buffer(f"value_scale_{number}", torch.ones(len(layout.shapes)))
            self.register_buffer(f"change_scale_{number}", torch.ones(len(layout.shapes)))
        self.register_buffer("metric_mean", torch.zeros(()))
        self.register_buffer("metric_std", torch.ones(()))
        self.register_buffer("initial_metric", torch.zeros(()))
        self.scheduler = DDPMScheduler(
            num_train_timesteps=num_train_timesteps,
            beta_schedule="linear",
            prediction_type="sample",
            clip_sample=False,
            timestep_spacing="trailing",
        )
        self.sampling_scheduler: Any = DDIMScheduler.from_config(self.scheduler.config)

    @classmethod
    def example(cls) -> GeneratorExample:
        """A small generator, and a condition that holds the parameters to start from; see :meth:`Generator.example`."""
        target = example_target()
        start = {name: torch.full(value.shape, 0.1) for name, value in target.named_parameters()}
        layout = {"shapes": {name: list(value.shape) for name, value in start.items()}}
        generator = cls([layout], width=16, depth=1, heads=2, sampling_steps=3)
        condition = {"metric": 0.5, "start": start, "start_metric": 2.0}
        return GeneratorExample(generator, target, condition, example_inputs())

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The loss to reach."""
        return ("metric",)

    def forward(
        self, noised: Mapping[str, Tensor], start: Mapping[str, Tensor], times: Tensor, now: Tensor, wanted: Tensor
    ) -> dict[str, Tensor]:
        """Predict θ' from its noised values.

        Args:
            noised: θ'_t in units of :meth:`value_scales`, ``[networks, *shape]`` by name.
            start: θ, likewise.
            times: Timesteps of the diffusion, ``[networks]``.
            now: The loss of θ, ``[networks]``.
            wanted: The loss of θ', ``[networks]``.

        Returns:
            θ', likewise.
        """
        number = self.layout_number({name: value.shape[1:] for name, value in start.items()})
        layout = self.layouts[number]
        readers, writers = cast(nn.ModuleList, self.readers[number]), cast(nn.ModuleList, self.writers[number])
        tokens = [
            reader(torch.cat([one, other], 2))
            for reader, one, other in zip(readers, layout.encode(noised), layout.encode(start), strict=True)
        ]
        now, wanted = self._standardised(now), self._standardised(wanted)
        told = [
            embed(self.waves(value).to(now.dtype))
            for embed, value in zip(self.scalars, (times, 100 * now, 100 * wanted, 100 * (wanted - now)), strict=True)
        ]
        sequence = torch.cat([*tokens, torch.stack(told, 1)], 1)
        length = sequence.shape[1] - len(told)
        kinds = torch.repeat_interleave(self.kinds[number], self._repeats(layout, sequence.device), 0)
        sequence = sequence + torch.stack(told).sum(0)[:, None]
        sequence = torch.cat([sequence[:, :length] + kinds, sequence[:, length:]], 1)
        out = self.transformer(sequence)[:, :length].split([count for count, _ in layout.sizes], 1)
        changes = layout.decode([writer(block) for writer, block in zip(writers, out, strict=True)])
        values, units = self.value_scales(number), self.change_scales(number)
        return {name: start[name] + units[name] / values[name] * change for name, change in changes.items()}

    def layout_number(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Which of the layouts has these shapes.

        Raises:
            GeneratorError: None of them.
        """
        given = {name: tuple(shape) for name, shape in shapes.items()}
        for number, layout in enumerate(self.layouts):
            if dict(layout.shapes) == given:
                return number
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in list(given.items())[:4])
        raise GeneratorError(
            f"The zoo of this generator had no network with these {len(given)} parameters ({listed}, …). Pass a "
            "network of a layout of the zoo, or train a generator on networks like this one."
        )

    def value_scales(self, number: int = 0) -> dict[str, Tensor]:
        """What the values of each tensor of a layout are divided by."""
        return dict(zip(self.layouts[number].shapes, getattr(self, f"value_scale_{number}"), strict=True))

    def change_scales(self, number: int = 0) -> dict[str, Tensor]:
        """What the changes of each tensor of a layout are divided by."""
        return dict(zip(self.layouts[number].shapes, getattr(self, f"change_scale_{number}"), strict=True))

    @torch.no_grad()
    def measure_zoo(
        self, starts: Mapping[str, Tensor], ends: Mapping[str, Tensor], metrics: Tensor, initial_metric: float
    ) -> None:
        """Take scales from pairs of checkpoints of a run, and the range of metrics from all checkpoints.

        Args:
            starts: ``[pairs, *shape]`` by name.
            ends: Parameters at the end of training, in the same form as ``starts``.
            metrics: Metrics of all checkpoints, ``[checkpoints]``.
            initial_metric: Mean metric of networks before training.
        """
        number = self.layout_number({name: value.shape[1:] for name, value in starts.items()})
        values, changes = getattr(self, f"value_scale_{number}"), getattr(self, f"change_scale_{number}")
        for index, name in enumerate(self.layouts[number].shapes):
            values[index] = ends[name].square().mean().sqrt().clamp_min(1e-6)
            changes[index] = (ends[name] - starts[name]).square().mean().sqrt().clamp_min(1e-6)
        self.metric_mean.copy_(metrics.log().mean())
        self.metric_std.copy_(metrics.log().std())
        self.initial_metric.fill_(initial_metric)

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Take each start to the loss that is wanted.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit, or the layout was not in the zoo.
        """
        own = dict(target.named_parameters()) if isinstance(target, nn.Module) else None
        shapes = expected_shapes(target) if isinstance(target, nn.Module) else target.parameter_shapes
        number = self.layout_number(shapes)
        names = list(self.layouts[number].shapes)
        starts, now, wanted = [], [], []
        for condition in conditions:
            if unknown := sorted(set(condition) - set(_KEYS)):
                raise GeneratorError(f"Unknown condition {unknown[0]!r}; this generator knows {', '.join(_KEYS)}.")
            if "metric" not in condition:
                raise GeneratorError("The condition lacks 'metric', the loss to reach. Pass it.")
            wanted.append(_positive("metric", condition["metric"]))
            now.append(_positive("start_metric", condition.get("start_metric", float(self.initial_metric))))
            start = condition.get("start", own)
            if start is None or any(value.is_meta for value in start.values()):
                raise GeneratorError("There are no weights to start from. Pass condition['start'], or a network's own.")
            if (given := {name: tuple(value.shape) for name, value in start.items()}) != self.layouts[number].shapes:
                raise GeneratorError(f"condition['start'] is not of the target's layout: {given}.")
            starts.append({name: start[name].detach() for name in names})
        stacked = {name: torch.stack([start[name] for start in starts]).to(self.metric_mean) for name in names}
        losses = self.metric_mean.new_tensor([now, wanted])
        return self.step(stacked, losses[0], losses[1], random)

    def step(
        self, start: Mapping[str, Tensor], now: Tensor, wanted: Tensor, random: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """One-step prompting: take stacked networks from their losses to those wanted.

        Args:
            start: ``[networks, *shape]`` by name.
            now: Their losses, ``[networks]``.
            wanted: ``[networks]``.
            random: Draws the noise that sampling starts from.

        Returns:
            ``[networks, *shape]`` by name.
        """
        scales = self.value_scales(self.layout_number({name: value.shape[1:] for name, value in start.items()}))
        origin = {name: value / scales[name] for name, value in start.items()}
        draw = random or torch.Generator().manual_seed(0)
        current = {name: torch.randn(value.shape, generator=draw).to(value) for name, value in origin.items()}
        scheduler = self.sampling_scheduler
        scheduler.set_timesteps(self.sampling_steps, device=now.device)
        for time in scheduler.timesteps:
            noised = _flat(current)
            scaled = _unflat(scheduler.scale_model_input(noised, time), origin)
            clean = self(scaled, origin, time.expand(len(now)), now, wanted)
            # All tensors at once: some schedulers count their steps.
            current = _unflat(scheduler.step(_flat(clean), time, noised).prev_sample, origin)
        return {name: value * scales[name] for name, value in current.items()}

    def refine(
        self,
        start: Mapping[str, Tensor],
        now: Tensor,
        wanted: Tensor,
        measure: Callable[[dict[str, Tensor]], Tensor],
        times: int = 3,
        random: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Recursive prompting: ask for the same loss again from where the last answer led.

        Args:
            start: ``[networks, *shape]`` by name.
            now: Their losses, ``[networks]``.
            wanted: ``[networks]``.
            measure: Gives the losses of networks, ``[networks]``.
            times: How often to ask.
            random: Draws the noise that sampling starts from.

        Returns:
            ``[networks, *shape]`` by name.
        """
        networks = dict(start)
        for _ in range(times):
            networks = self.step(networks, now, wanted, random)
            now = measure(networks)
        return networks

    def _standardised(self, metric: Tensor) -> Tensor:
        return (metric.log() - self.metric_mean) / self.metric_std

    def _repeats(self, layout: UnitTokens, device: torch.device) -> Tensor:
        """How many tokens each kind stands for."""
        repeats: list[int] = []
        for number, (count, _) in enumerate(layout.sizes):
            repeats += [count] if number < len(layout.groups) else [1] * count
        return torch.tensor(repeats, device=device)


def _flat(networks: Mapping[str, Tensor]) -> Tensor:
    """Stacked networks as rows, ``[networks, values]``."""
    return torch.cat([value.flatten(1) for value in networks.values()], 1)


def _unflat(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo :func:`_flat`, for networks like those given."""
    parts = rows.split([value[0].numel() for value in like.values()], 1)
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}


def _positive(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise GeneratorError(f"A condition's {key} must be one positive number, a loss; got {value!r}.")
    return number
