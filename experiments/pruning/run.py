"""``python train.py experiment=pruning``: what is left of networks of which most is taken out."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from hypergen.architectures import Architecture
from hypergen.data import ImageDataModule
from hypergen.data.in_memory import SPLITS
from hypergen.errors import HypergenError
from hypergen.evaluation.plots import LEGEND, accuracy_axis, canvas, save_figures
from hypergen.evaluation.results import Results, Row
from hypergen.functional import calibrate_batch_norm
from hypergen.functional.stacked import Recipe, Splits, evaluate_stacked, train_stacked
from hypergen.functional.stacked_module import StackedModule
from hypergen.generators.checkpoint import save_tensors
from hypergen.graph import trace
from hypergen.metanets.meta_pruning.model import PruningMetanetwork
from hypergen.metanets.meta_pruning.training import (
    MetaPruningTraining,
    PrunableNetworks,
    PruningBatches,
    pruning_loss,
    rewritten,
)
from hypergen.symmetry.prune.allocate import allocate
from hypergen.symmetry.prune.importance import magnitude, most_important, random
from hypergen.symmetry.prune.pruner import Pruner
from hypergen.training.fit import fit

METHODS = ("metanetwork", "magnitude", "magnitude_longer", "sparsity_training", "random", "scratch")
_LABELS = {
    "metanetwork": "metanetwork",
    "magnitude": "magnitude",
    "magnitude_longer": "magnitude, more steps",
    "sparsity_training": "sparsity training",
    "random": "random",
    "scratch": "trained from scratch",
}
_COLOURS = dict(zip(METHODS, ("#c8102e", "#22699f", "#6aa6d8", "#b6d4ee", "#b0b8c4", "#d9d9d9"), strict=True))

Stack = dict[str, Tensor]


def train_pruning(
    *,
    name: str,
    output: str,
    seed: int,
    data: ImageDataModule,
    architectures: Mapping[str, Architecture],
    networks: Mapping[str, int],
    metanetwork: PruningMetanetwork,
    training: Callable[..., MetaPruningTraining],
    trainer: Callable[..., pl.Trainer],
    held_out: int = 10,
    steps: int = 250,
    learning_rate: float = 5e-3,
    batch_size: int = 32,
    snapshots: Sequence[int] = (),
    flops: float = 0.25,
    finetuning_steps: int = 10,
    finetuning_rates: Sequence[float] = (3e-3, 1e-2, 3e-2),
    aims: Mapping[str, float] | None = None,
) -> Results:
    """Train networks and a metanetwork that makes them easier to prune; prune others, and fine-tune all alike.

    One metanetwork learns from networks of all architectures, and is measured on networks of the same architectures
    from other seeds. All methods leave the same number of units in every group of ``graph.symmetry()``, so that the
    networks cost the same; statistics of batch norms are estimated anew before fine-tuning, whose learning rate is
    chosen for each method on validation images. Beside the metanetwork:

    - ``magnitude``: the units of greatest norm stay, in the network as it is;
    - ``magnitude_longer``: the same, fine-tuned on as many more images as the metanetwork's gradient is computed on;
    - ``sparsity_training``: the same after training on so many images by the loss that the metanetwork is trained by,
      on the weights themselves;
    - ``random``: any units stay;
    - ``scratch``: the small network from its own initialisation, for the same few steps.

    Args:
        name: Name of the experiment.
        output: The folder for results, pictures and the metanetwork.
        seed: Random seed of networks, training and random choices.
        data: What the networks are trained on.
        architectures: By the names that figures have.
        networks: For each of them, how many the metanetwork learns from.
        metanetwork: The metanetwork to train.
        training: Makes its training from the metanetwork, networks, images and labels.
        trainer: Makes trainers.
        held_out: Networks of each architecture to prune.
        steps: Number of steps of the networks' training.
        learning_rate: Learning rate of the networks' training, with cosine decay.
        batch_size: Images per step.
        snapshots: Earlier steps whose networks the metanetwork learns from, too.
        flops: Share of the operations that is left.
        finetuning_steps: After pruning.
        finetuning_rates: Learning rates of fine-tuning to choose from.
        aims: By figure.

    Returns:
        The figures, which are also written to ``output`` and printed.
    """
    console = Console()
    splits = {split: data.tensors(split) for split in SPLITS}
    unseen: dict[str, PrunableNetworks] = {}
    seen: list[PrunableNetworks] = []
    begun = time.monotonic()
    for label, architecture in architectures.items():
        count = networks[label]
        seeds = [seed * 10_000 + number for number in range(count + held_out)]
        recipes = [Recipe(f"{label}-{own}", steps, own, own, learning_rate) for own in seeds]
        options = {"batch_size": batch_size, "schedule": "cosine", "save_steps": snapshots}
        stages = list(train_stacked(architecture.build, recipes, splits, **options))  # type: ignore[arg-type]
        if any(stage.diverged for stage in stages):
            raise HypergenError(f"Networks of {label!r} diverged; lower learning_rate.")
        unseen[label] = _prunable(
            architecture, {key: value[count:] for key, value in stages[-1].state.items()}, flops, splits
        )
        known = _joined([{key: value[:count] for key, value in stage.state.items()} for stage in stages])
        seen.append(replace(unseen[label], state=known))
    console.print(f"{sum(map(len, seen))} networks to learn from, in {time.monotonic() - begun:.0f} s")

    begun = time.monotonic()
    images, labels = splits["train"]
    module = training(metanetwork=metanetwork, networks=seen, images=images, labels=labels)
    loaders = {"train_dataloaders": DataLoader(PruningBatches(seen, len(images), seed=seed), batch_size=None)}
    make_trainer = partial(trainer, max_steps=module.steps, enable_progress_bar=False)
    fit(module, loaders, make_trainer, None, None, output, None)
    metanetwork.eval()
    seconds = time.monotonic() - begun
    console.print(f"Metanetwork trained in {seconds:.0f} s")

    rows: list[Row] = []
    accuracies: dict[str, dict[str, Tensor]] = {}
    for label, own in unseen.items():
        comparison = _Comparison(own, splits, finetuning_steps, finetuning_rates, batch_size, seed)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        first = order[: module.gradient_images]
        with torch.no_grad():
            comparison.add("metanetwork", rewritten(metanetwork, own, own.state, images[first], labels[first]))
        comparison.add("magnitude", own.state)
        more = math.ceil(module.gradient_images / batch_size)
        comparison.add("magnitude_longer", own.state, more_steps=more)
        for rate in finetuning_rates:
            state = comparison.sparsely_trained(more, rate, module.sparsity_weight, module.pruned_weight)
            comparison.add("sparsity_training", state)
        comparison.add("random", own.state, by_chance=True)
        comparison.add_scratch()
        before, accuracies[label] = comparison.finetuned()
        rows += _rows(label, before, accuracies[label], comparison.unpruned())
        rows.append(Row(f"flops_share_{label}", comparison.flops_share(), better="lower"))
    rows.append(Row("metanetwork_seconds", seconds, better="lower"))
    rows = [replace(row, aim=(aims or {}).get(row.figure)) for row in rows]
    details = {
        "counts": {label: dict(own.counts) for label, own in unseen.items()},
        "architectures": {label: own.to_json() for label, own in architectures.items()},
        "finetuning_steps": finetuning_steps,
    }
    results = Results(name, seed, tuple(sorted(rows, key=lambda row: row.aim is None)), details)
    results.write(output)
    save_tensors(Path(output) / "metanetwork.safetensors", metanetwork.state_dict())
    save_figures({"pruning": pruning_figure(accuracies, finetuning_steps)}, Path(output))
    results.print_table(console)
    console.print(f"Results and plots are in {output}", soft_wrap=True)
    return results


def _prunable(architecture: Architecture, state: Stack, flops: float, splits: Splits) -> PrunableNetworks:
    """Networks with as many units of each group to keep as the budget allows, the same share of each."""
    model, image = architecture.build(), splits["train"][0][:1]
    pruner = Pruner(model, image)
    counts = allocate(pruner, random(pruner), flops, "uniform")
    return PrunableNetworks(
        StackedModule(architecture.build), trace(model, image).parameter_graph(), pruner, counts, state
    )


class _Comparison:
    """Prunes the same networks in several ways, and fine-tunes what is left."""

    def __init__(
        self, networks: PrunableNetworks, splits: Splits, steps: int, rates: Sequence[float], batch_size: int, seed: int
    ) -> None:
        self.networks, self.splits, self.steps, self.rates = networks, splits, steps, rates
        self.batch_size, self.seed = batch_size, seed
        self.small = networks.pruner.prune(self._kept(magnitude(networks.pruner, networks.state), 0)).model
        self.methods: list[str] = []
        self.lengths: list[int] = []
        self.stacks: list[Stack] = []

    def add(self, method: str, state: Mapping[str, Tensor], by_chance: bool = False, more_steps: int = 0) -> None:
        """Prune networks by the norms of their units; of several stacks for one method the best is taken."""
        pruner = self.networks.pruner
        scores = magnitude(pruner, state)
        if by_chance:
            generator = torch.Generator().manual_seed(self.seed)
            scores = {name: torch.rand(own.shape, generator=generator) for name, own in scores.items()}
        self._append(
            method,
            [
                pruner.slice({name: value[number] for name, value in state.items()}, self._kept(scores, number))
                for number in range(len(self.networks))
            ],
            more_steps,
        )

    def add_scratch(self) -> None:
        """The small network from its own initialisation."""
        fresh = []
        model = copy.deepcopy(self.small)
        for number in range(len(self.networks)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed * 10_000 + number)
                for module in model.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()
            fresh.append({name: value.clone() for name, value in model.state_dict().items()})
        self._append("scratch", fresh)

    def sparsely_trained(self, steps: int, rate: float, sparsity_weight: float, pruned_weight: float) -> Stack:
        """The networks after steps of the loss that the metanetwork is trained by."""
        own = self.networks
        before = magnitude(own.pruner, own.state)
        state = {name: value.clone() for name, value in own.state.items()}
        parameters = [state[name].requires_grad_() for name in own.module.parameter_names]
        optimizer = torch.optim.Adam(parameters, rate)
        images, labels = self.splits["train"]
        batches = PruningBatches([own], len(images), images_per_step=self.batch_size, seed=self.seed)
        for _, (_, _, chosen) in zip(range(steps), batches, strict=False):
            options = {"before": before, "sparsity_weight": sparsity_weight, "pruned_weight": pruned_weight}
            loss = pruning_loss(own, state, images[chosen], labels[chosen], **options)  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {name: value.detach() for name, value in state.items()}

    def finetuned(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Test accuracies before and after fine-tuning by method, ``[networks]``; settings are chosen on validation."""
        stack, count = _joined(self.stacks), len(self.networks)
        model = copy.deepcopy(self.small)
        for number in range(len(self.stacks) * count):
            model.load_state_dict({name: value[number] for name, value in stack.items()})
            calibrate_batch_norm(model, [self.splits["train"][0]])
            for name, value in model.state_dict().items():
                stack[name][number] = value
        best: dict[str, float] = {}
        before: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}
        for rate in self.rates:
            recipes = [
                Recipe(f"{kind}-{number}", length, data_seed=self.seed * 10_000 + number, learning_rate=rate)
                for kind, length in enumerate(self.lengths)
                for number in range(count)
            ]
            found = self._trained(recipes, stack)
            for number, method in enumerate(self.methods):
                own = slice(number * count, (number + 1) * count)
                score = float(found["validation"][1][own].mean())
                if score > best.get(method, -1.0):
                    best[method] = score
                    before[method], after[method] = (accuracies[own] for accuracies in found["test"])
        return before, after

    def _trained(self, recipes: Sequence[Recipe], stack: Stack) -> dict[str, Tensor]:
        """Accuracies on each split, before and after: ``[2, networks]``."""
        found = {split: torch.full((2, len(recipes)), float("nan")) for split in ("validation", "test")}
        for snapshot in train_stacked(
            lambda: copy.deepcopy(self.small),
            recipes,
            self.splits,
            save_steps=(0,),
            initial=stack,
            batch_size=self.batch_size,
            schedule="linear",
        ):
            for split, accuracies in found.items():
                accuracies[min(snapshot.step, 1), list(snapshot.networks)] = snapshot.metrics[split]["accuracy"]
        return found

    def unpruned(self) -> Tensor:
        """Test accuracies of the networks as they were, ``[networks]``."""
        own = self.networks
        names = own.module.parameter_names
        parameters = {name: own.state[name] for name in names}
        buffers = {name: value for name, value in own.state.items() if name not in names}
        images, labels = self.splits["test"]
        return evaluate_stacked(own.module, parameters, buffers, images, labels[None])["accuracy"]

    def flops_share(self) -> float:
        """The operations that are left, as a share of what there were."""
        pruner = self.networks.pruner
        return pruner.flops(self._kept(magnitude(pruner, self.networks.state), 0)) / pruner.flops()

    def _kept(self, scores: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        return most_important({name: own[number] for name, own in scores.items()}, self.networks.counts)

    def _append(self, method: str, networks: Sequence[Mapping[str, Tensor]], more_steps: int = 0) -> None:
        self.methods.append(method)
        self.lengths.append(self.steps + more_steps)
        names = self.small.state_dict()
        self.stacks.append({name: torch.stack([own[name] for own in networks]) for name in names})


def _joined(stacks: Sequence[Stack]) -> Stack:
    return {name: torch.cat([stack[name] for stack in stacks]) for name in stacks[0]}


def _rows(label: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor], unpruned: Tensor) -> list[Row]:
    rows = []
    for method in METHODS[1:]:
        difference = (after["metanetwork"] - after[method]).tolist()
        rows.append(Row.from_values(f"accuracy_over_{method}_{label}", difference))
    for method in METHODS:
        rows.append(Row.from_values(f"accuracy_{label}_{method}", after[method].tolist()))
        rows.append(Row.from_values(f"pruned_accuracy_{label}_{method}", before[method].tolist()))
    rows.append(Row.from_values(f"accuracy_{label}_unpruned", unpruned.tolist()))
    return rows


def pruning_figure(accuracies: Mapping[str, Mapping[str, Tensor]], steps: int) -> Figure:
    """Bars of mean test accuracy after fine-tuning by architecture and method, with a point for every network."""
    figure, axes = canvas(max(7.5, 2.2 + 2.2 * len(accuracies)), 4.4)
    width = 0.8 / len(METHODS)
    for index, methods in enumerate(accuracies.values()):
        for position, method in enumerate(METHODS):
            place = index + (position - (len(METHODS) - 1) / 2) * width
            values = methods[method]
            label = _LABELS[method] if index == 0 else None
            axes.bar(place, float(values.mean()), width * 0.94, color=_COLOURS[method], label=label, zorder=2)
            spread = torch.linspace(-0.25, 0.25, len(values)) * width
            axes.scatter(place + spread, values, s=7, color="#333333", alpha=0.6, lw=0, zorder=3)
    counts = {label: len(methods["magnitude"]) for label, methods in accuracies.items()}
    axes.set_xticks(range(len(counts)), [f"{label} (n = {count})" for label, count in counts.items()])
    axes.tick_params(axis="x", length=0)
    accuracy_axis(axes)
    axes.set_title(f"Pruned networks after {steps} steps of fine-tuning", loc="left", pad=24)
    axes.legend(ncols=len(METHODS), loc="lower left", bbox_to_anchor=(-0.01, 1.0), **LEGEND)
    return figure
