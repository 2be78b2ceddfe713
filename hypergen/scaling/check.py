"""The coordinate check: do activations change equally much at every width while a network is trained?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import ParameterError
from hypergen.graph.inputs import example_arguments
from hypergen.scaling.report import Optimizer, ScalingReport, rescale
from hypergen.scaling.rules import Rule, scaling_rules

if TYPE_CHECKING:
    from rich.table import Table

Batch = tuple[tuple[Any, ...], dict[str, Any], Tensor | None]


@dataclass(frozen=True, eq=False)
class CoordinateCheck:
    """Activations over steps and widths.

    Attributes:
        rule: Name of the scale rule.
        widths: The widths, in the order of the axes below.
        size: Module name → mean absolute activation, ``[widths, steps + 1]``, the mean over seeds.
        change: Module name → mean absolute difference to the activation before training, in the same form.
    """

    rule: str
    widths: tuple[int, ...]
    size: Mapping[str, Tensor]
    change: Mapping[str, Tensor]

    @property
    def ratios(self) -> dict[str, float]:
        """Module name → change at the largest width over that at the smallest, after the last step."""
        return {
            name: float(value[-1, -1] / value[0, -1]) if float(value[0, -1]) else float("nan")
            for name, value in self.change.items()
        }

    @property
    def worst(self) -> float:
        """The ratio that is farthest from 1, as a factor of at least 1."""
        known = [ratio for ratio in self.ratios.values() if ratio == ratio and ratio > 0]
        return max((max(ratio, 1 / ratio) for ratio in known), default=float("nan"))

    def __rich__(self) -> Table:
        """A line per module: how much its activations changed at each width."""
        from rich.table import Table

        table = Table(title=f"{self.rule}: change of activations after the last step", title_justify="left")
        for heading in ("module", *map(str, self.widths), "largest / smallest"):
            table.add_column(heading)
        for name, value in self.change.items():
            table.add_row(name or "(output)", *(f"{float(v):.3g}" for v in value[:, -1]), f"{self.ratios[name]:.2f}")
        return table

    def plot(self, path: str | Path) -> None:
        """Draw the size of every activation over widths, a panel per step."""
        from matplotlib.figure import Figure

        steps = next(iter(self.size.values())).shape[1]
        figure = Figure(figsize=(3 * steps, 3), layout="constrained")
        panels = figure.subplots(1, steps, sharey=True, squeeze=False)[0]
        for step, panel in enumerate(panels):
            for name, value in self.size.items():
                panel.plot(self.widths, value[:, step], label=name or "(output)", linewidth=0.8)
            panel.set(xscale="log", yscale="log", title=f"{self.rule}, step {step}", xlabel="width")
        panels[0].set_ylabel("mean |activation|")
        figure.savefig(path)


def coordinate_check(
    build: Callable[[int], nn.Module],
    widths: Sequence[int],
    rule: Rule = "mup",
    *,
    base_width: int | None = None,
    steps: int = 4,
    lr: float = 1e-2,
    optimizer: Optimizer = "adamw",
    seeds: int = 3,
    batch: Batch | None = None,
    example_inputs: Any = None,
) -> CoordinateCheck:
    """Train networks of several widths for a few steps and record their activations.

    With a rule that transfers, changes are the same at every width; with standard scales they grow. The output of a
    norm that holds the multiplier of a head tied to an embedding is shown without it.

    Args:
        build: The network of a width.
        widths: Widths, ascending.
        rule: Scale rule; see :func:`scaling_rules`.
        base_width: Width of the base network; None for the smallest.
        steps: Steps of training.
        lr: Learning rate of the base network.
        optimizer: ``"adamw"`` or ``"sgd"``.
        seeds: Number of random seeds.
        batch: Positional arguments, keyword arguments and labels that all steps train on; None for random values and
            labels in the shapes of the example inputs.
        example_inputs: What the network is called with, when it cannot be worked out.

    Raises:
        ParameterError: Fewer than two widths, or the network returns no floating-point tensor.
    """
    widths = tuple(widths)
    if len(set(widths)) < 2:
        raise ParameterError(f"A coordinate check compares at least two widths; got {list(widths)}.")
    base_width = min(widths) if base_width is None else base_width
    size: dict[str, Tensor] = {}
    change: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=[]):
        for seed in range(seeds):
            for place, width in enumerate(widths):
                torch.manual_seed(seed)
                model, base = build(width), build(base_width)
                report = scaling_rules(model, base, rule, example_inputs=example_inputs)
                rescale(model, report)
                groups = report.parameter_groups(model, lr, optimizer)
                own = torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups)
                scales = _multiplied_outputs(report)
                for step, (name, now, moved) in _trained(model, own, steps, batch, example_inputs, seed):
                    for record, value in ((size, now), (change, moved)):
                        table = record.setdefault(name, torch.zeros(len(widths), steps + 1))
                        table[place, step] += value / scales.get(name, 1.0) / seeds
    return CoordinateCheck(rule, widths, size, change)


def _multiplied_outputs(report: ScalingReport) -> dict[str, float]:
    """The modules whose outputs hold a multiplier of the layer behind them: the norm before a tied head."""
    return {
        name.rpartition(".")[0]: each.value
        for each in report.multipliers
        for name in each.folded
        if report.parameters[name].kind == "vector" and "tied" in each.place
    }


def _trained(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, batch: Batch | None, inputs: Any, seed: int
) -> Iterator[tuple[int, tuple[str, float, float]]]:
    model.eval()  # dropout would be measured, too
    arguments, keywords, labels = batch or (*_random_arguments(model, inputs, seed), None)
    first: dict[str, Tensor] = {}
    for step in range(steps + 1):
        with recorded(model) as activations:
            output = _first_tensor(model(*arguments, **keywords))
        if output is None:
            raise ParameterError("The network returns no floating-point tensor to train on.")
        activations[""] = output.detach()
        for name, value in activations.items():
            before = first.setdefault(name, value)
            yield step, (name, float(value.abs().mean()), float((value - before).abs().mean()))
        logits = output.flatten(0, -2) if output.dim() > 1 else output[None]
        if labels is None:
            generator = torch.Generator().manual_seed(seed)
            labels = torch.randint(logits.shape[-1], logits.shape[:1], generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels.flatten()).backward()
        optimizer.step()


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of all modules that hold parameters themselves."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            value = _first_tensor(output)
            if value is not None:
                found[name] = value.detach()

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if name and next(module.parameters(recurse=False), None) is not None
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((found for found in map(_first_tensor, value) if found is not None), None)
    return None


def _random_arguments(model: nn.Module, inputs: Any, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    arguments, keywords = example_arguments(model, inputs)

    def drawn(value: Any) -> Any:
        if isinstance(value, Tensor):
            shape = (max(value.shape[0], 8), *value.shape[1:]) if value.dim() else value.shape
            if value.is_floating_point():
                return torch.randn(shape, generator=generator)
            if value.dtype is torch.bool:
                return torch.ones(shape, dtype=torch.bool)
            # Mostly tokens; small enough for every vocabulary, position and type table of two entries.
            return torch.randint(2, shape, generator=generator, dtype=value.dtype)
        if isinstance(value, dict):
            return {key: drawn(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(drawn(item) for item in value)
        return value

    return drawn(tuple(arguments)), drawn(dict(keywords))
