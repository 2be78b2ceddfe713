"""Trains many networks of one layout together: their weights are stacked, and each step updates all of them at once.

A small network leaves a processor idle: a step of it is dozens of operations of a few microseconds' work each. Stacked,
the same operations work on all networks. Networks differ in initialisation, order of data, task and hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.functional.stacked_module import StackedModule

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]
Splits = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Args:
        run: Its name.
        steps: Updates until it is finished.
        init_seed: Random seed of its initialisation.
        data_seed: Random seed of the order of its images, and of which it sees.
        learning_rate: Learning rate of its optimiser; at the start, where there is a schedule.
        weight_decay: Decoupled (as in AdamW) for Adam, an L2 penalty for SGD.
        init_scale: What its initial weight matrices and kernels are multiplied by.
        data_fraction: Share of the training images that it sees.
        task: Its name, if there are several.
    """

    run: str
    steps: int
    init_seed: int = 0
    data_seed: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    init_scale: float = 1.0
    data_fraction: float = 1.0
    task: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """Some of the networks after a number of steps.

    Attributes:
        step: Updates so far.
        networks: Which they are, by their positions among the recipes.
        state: A tensor [networks, …] per name of the module's state dict.
        metrics: For ``"validation"`` and ``"test"``: ``"accuracy"`` and ``"loss"``, [networks] each.
        diverged: Positions of networks that are not finite; they are in no snapshot and train no further.
    """

    step: int
    networks: tuple[int, ...]
    state: dict[str, Tensor]
    metrics: dict[str, dict[str, Tensor]]
    diverged: tuple[int, ...] = ()


def train_stacked(
    build: Callable[[], nn.Module],
    recipes: Sequence[Recipe],
    data: Splits,
    *,
    save_steps: Sequence[int] = (),
    tasks: Mapping[str, Sequence[int]] | None = None,
    initial: Mapping[str, Tensor] | None = None,
    batch_size: int = 32,
    optimizer: Optimizer = "adam",
    momentum: float = 0.9,
    schedule: Schedule = "constant",
    label_smoothing: float = 0.0,
    input_noise: float = 0.0,
    device: str = "cpu",
    on_step: Callable[[int, int], None] | None = None,
) -> Iterator[Snapshot]:
    """Train networks together and yield their checkpoints.

    Each network becomes what it would become alone, but for rounding: nothing that it does depends on the others.
    Networks with one output learn a binary task by its logit, all others a distribution over classes.

    Args:
        build: Makes the module; its weights are initialised by its own constructor, under each network's seed.
        recipes: One per network.
        data: ``"train"``, and ``"validation"`` and ``"test"`` where metrics are wanted: inputs [N, …] and labels [N].
        save_steps: After how many updates every network is saved; each is saved in the end, too.
        tasks: For the tasks that recipes name, the new label of each label of ``data``.
        initial: Stacked tensors [networks, …] to start from instead, a tensor per name of the state dict; names that
            are missing keep their own initialisation.
        batch_size: Images per network and step.
        optimizer: ``"adam"`` (AdamW with betas .9 and .999) or ``"sgd"``.
        momentum: Momentum of SGD.
        schedule: Schedule of learning rates: ``"constant"``, or ``"linear"`` or ``"cosine"`` down to zero at each
            network's last step.
        label_smoothing: Share of each training label that goes evenly to all classes.
        input_noise: Standard deviation of the noise on training inputs, drawn anew for each step.
        device: Where to train.
        on_step: Called with the step and the number of networks that made it.

    Yields:
        Snapshots in the order of steps; tensors in them are copies.

    Raises:
        ValueError: Arguments contradict each other.
    """
    _check(recipes, data, tasks, batch_size)
    images, labels = (tensor.to(device) for tensor in data["train"])
    module = StackedModule(build)
    state = module.initialise([recipe.init_seed for recipe in recipes])
    _scale(state, module, [recipe.init_scale for recipe in recipes])
    state |= {key: value.clone() for key, value in (initial or {}).items()}
    run = _Run(module, {key: value.to(device) for key, value in state.items()}, recipes, optimizer, momentum, schedule)
    relabel = _relabelling(recipes, tasks, labels, device)
    batches = Batches(recipes, len(images), batch_size)
    held_out = {split: (data[split][0].to(device), data[split][1].to(device)) for split in data if split != "train"}
    wanted = set(save_steps)
    stops = torch.tensor([recipe.steps for recipe in recipes])
    events = {step for step in wanted if step <= int(stops.max())} | set(stops.tolist())
    for step in range(int(stops.max()) + 1):
        if step in events:
            finite = run.finite().cpu()
            saved = finite if step in wanted else finite & (stops[run.alive] == step)
            if saved.any() or not finite.all():
                yield run.snapshot(step, saved, finite, held_out, relabel)
            run.keep(finite & (stops[run.alive] > step))
        if not len(run.alive):
            return
        chosen = batches.draw(step, run.alive).to(device)  # [networks or 1, batch]
        flat = chosen.flatten()
        inputs = images.index_select(0, flat).unflatten(0, chosen.shape)
        targets = relabel(labels.index_select(0, flat).view(chosen.shape), run.alive).expand(len(run.alive), -1)
        if input_noise:
            noise = torch.randn(inputs.shape[1:], generator=torch.Generator().manual_seed(step))
            inputs = inputs + input_noise * noise.to(device)
        run.update(step, inputs, targets, label_smoothing)
        if on_step is not None:
            on_step(step + 1, len(run.alive))


class _Run:
    """The networks that still train, with their optimiser; one row per network throughout."""

    def __init__(
        self,
        module: StackedModule,
        state: dict[str, Tensor],
        recipes: Sequence[Recipe],
        optimizer: Optimizer,
        momentum: float,
        schedule: Schedule,
    ) -> None:
        self.module, self.optimizer, self.momentum, self.schedule = module, optimizer, momentum, schedule
        self.alive = torch.arange(len(recipes))
        self.keys = module.parameter_names
        self.shapes = [state[key].shape[1:] for key in self.keys]
        self.sizes = [shape.numel() for shape in self.shapes]
        # Of all parameters of a network in one row: few large operations update them.
        self.weights = torch.cat([state[key].flatten(1) for key in self.keys], 1)
        self.buffers = {key: value for key, value in state.items() if key not in self.keys}
        self.moments = [torch.zeros_like(self.weights) for _ in range(2 if optimizer == "adam" else 1)]
        device = self.weights.device
        self.learning_rates = torch.tensor([[recipe.learning_rate] for recipe in recipes], device=device)
        self.decays = torch.tensor([[recipe.weight_decay] for recipe in recipes], device=device)
        self.stops = torch.tensor([[float(recipe.steps)] for recipe in recipes], device=device)

    def views(self, weights: Tensor) -> dict[str, Tensor]:
        """Weights [networks, all] as a tensor [networks, …] per name."""
        parts = weights.split(self.sizes, 1)
        return {key: part.unflatten(1, shape) for key, part, shape in zip(self.keys, parts, self.shapes, strict=True)}

    def update(self, step: int, inputs: Tensor, targets: Tensor, label_smoothing: float) -> None:
        """Make one step of every network."""
        weights = self.weights.detach().requires_grad_()
        # The first layers of all networks work on the same numbers then, which is faster.
        shared = len(inputs) == 1
        outputs = self.module(self.views(weights), self.buffers, inputs[0] if shared else inputs, shared=shared)
        losses(outputs, targets, label_smoothing).sum().backward()
        gradients = weights.grad
        assert gradients is not None
        rate = self.learning_rates
        if self.schedule == "linear":
            rate = rate * (1 - step / self.stops)
        elif self.schedule == "cosine":
            rate = rate * (0.5 * (1 + torch.cos(math.pi * step / self.stops)))
        with torch.no_grad():
            if self.optimizer == "adam":
                self._adam(step + 1, gradients, rate)
            else:
                self._sgd(step, gradients, rate)

    def _adam(self, count: int, gradients: Tensor, rate: Tensor) -> None:
        mean, square = self.moments
        mean.lerp_(gradients, 1 - 0.9)
        square.mul_(0.999).addcmul_(gradients, gradients, value=1 - 0.999)
        self.weights.mul_(1 - rate * self.decays)
        root = square.sqrt().div_(math.sqrt(1 - 0.999**count)).add_(1e-8)
        self.weights.addcmul_(torch.div(mean, root, out=root), rate, value=-1 / (1 - 0.9**count))

    def _sgd(self, step: int, gradients: Tensor, rate: Tensor) -> None:
        gradients = gradients.addcmul(self.weights, self.decays)
        (velocity,) = self.moments
        velocity.mul_(self.momentum).add_(gradients)
        self.weights.addcmul_(velocity, rate, value=-1)

    def finite(self) -> Tensor:
        """Which networks [networks] have finite parameters."""
        return self.weights.isfinite().all(1)

    def keep(self, kept: Tensor) -> None:
        """Go on with these networks [networks, bool] alone."""
        if kept.all():
            return
        self.alive = self.alive[kept]
        on_device = kept.to(self.weights.device)
        self.weights = self.weights[on_device]
        self.moments = [moment[on_device] for moment in self.moments]
        self.buffers = {key: value[on_device] for key, value in self.buffers.items()}
        self.learning_rates, self.decays, self.stops = (
            vector[on_device] for vector in (self.learning_rates, self.decays, self.stops)
        )

    def snapshot(self, step: int, saved: Tensor, finite: Tensor, held_out: Splits, relabel: Any) -> Snapshot:
        """Copy and measure the saved networks [networks, bool]."""
        numbers = self.alive[saved]
        on_device = saved.to(self.weights.device)
        parameters = self.views(self.weights[on_device])
        buffers = {key: value[on_device] for key, value in self.buffers.items()}
        metrics = {
            split: evaluate_stacked(self.module, parameters, buffers, images, relabel(labels.unsqueeze(0), numbers))
            for split, (images, labels) in held_out.items()
        }
        both = parameters | buffers
        state = {key: both[key].contiguous().clone() for key in self.module.names}
        return Snapshot(step, tuple(numbers.tolist()), state, metrics, tuple(self.alive[~finite].tolist()))


def losses(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The mean loss of every network.

    Args:
        outputs: Logits [networks, batch, classes]; one class means a binary task.
        targets: Labels [networks, batch].
        label_smoothing: Share of each label that goes evenly to all classes.

    Returns:
        [networks]: cross-entropies.
    """
    if outputs.shape[2] == 1:
        smooth = targets.to(outputs.dtype) * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs[..., 0], smooth, reduction="none").mean(1)
    # With classes first, the softmax over a few of them runs over long rows instead of many short ones.
    logits = outputs.flatten(0, 1).t().contiguous().unsqueeze(0)  # [1, classes, networks * batch]
    by_image = F.cross_entropy(logits, targets.reshape(1, -1), reduction="none", label_smoothing=label_smoothing)
    return by_image.view(targets.shape).mean(1)


@torch.no_grad()
def evaluate_stacked(
    module: StackedModule,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    max_values: int = 2**24,
) -> dict[str, Tensor]:
    """Measure networks on the same inputs.

    Args:
        module: What they are.
        parameters: [networks, …] per name.
        buffers: Buffers, in the same form.
        inputs: [N, …].
        labels: [networks, N], or [1, N] if they are the same for all.
        max_values: At most about so many values of inputs and networks at once.

    Returns:
        ``"accuracy"`` and ``"loss"``, [networks] each, on the CPU.
    """
    networks = len(next(iter(parameters.values())))
    labels = labels.expand(networks, -1)
    correct, loss = torch.zeros(networks), torch.zeros(networks)
    size = max(1, max_values // max(1, networks * inputs[0].numel()))
    for start in range(0, len(inputs), size):
        outputs = module(parameters, buffers, inputs[start : start + size], training=False, shared=True)
        own = labels[:, start : start + size]
        predicted = outputs[..., 0] > 0 if outputs.shape[2] == 1 else outputs.argmax(2)
        correct += (predicted == own).sum(1).cpu()
        loss += losses(outputs, own).cpu() * own.shape[1]
    return {"accuracy": correct / len(inputs), "loss": loss / len(inputs)}


class Batches:
    """Which images each network sees at each step; depends on its data seed and data fraction alone.

    Args:
        recipes: Training recipes of the networks.
        images: How many training images there are.
        batch_size: Images per network and step.
    """

    def __init__(self, recipes: Sequence[Recipe], images: int, batch_size: int) -> None:
        kinds = [(recipe.data_seed, recipe.data_fraction) for recipe in recipes]
        self.kinds = list(dict.fromkeys(kinds))
        number = {kind: i for i, kind in enumerate(self.kinds)}
        self.kind_of = torch.tensor([number[kind] for kind in kinds])
        self.images, self.batch_size = images, batch_size
        self.steps_per_round = max(1, images // batch_size)
        self.round = -1
        self.order = torch.empty(0)

    def draw(self, step: int, networks: Tensor) -> Tensor:
        """Indices [networks, batch] of images; [1, batch] if all networks see the same ones."""
        turn, place = divmod(step, self.steps_per_round)
        if turn != self.round:
            self.round = turn
            self.order = torch.stack([self._order(*kind) for kind in self.kinds])
        batch = self.order[:, place * self.batch_size : (place + 1) * self.batch_size]
        return batch if len(batch) == 1 else batch[self.kind_of[networks]]

    def _order(self, seed: int, fraction: float) -> Tensor:
        """An order of the images that a network sees, as often as they fill a round."""
        subset = seen_images(seed, fraction, self.images)
        seen, length = len(subset), self.steps_per_round * self.batch_size
        generator = torch.Generator().manual_seed((seed * 1_000_003 + self.round + 1) % 2**63)
        orders = [torch.randperm(seen, generator=generator) for _ in range(math.ceil(length / seen))]
        order = torch.cat(orders)[:length]
        return order if seen == self.images else subset[order]


def seen_images(data_seed: int, data_fraction: float, images: int) -> Tensor:
    """Which training images a network sees, of so many that there are: ``[seen]``, indices."""
    seen = max(1, round(data_fraction * images))
    return torch.randperm(images, generator=torch.Generator().manual_seed(data_seed))[:seen]


def _scale(state: dict[str, Tensor], module: StackedModule, scales: Sequence[float]) -> None:
    if all(scale == 1 for scale in scales):
        return
    factors = torch.tensor(scales)
    for key in module.parameter_names:
        if state[key].dim() > 2:  # Matrices and kernels; the gains of norms are no scale of a network.
            state[key] = state[key] * factors.view(-1, *[1] * (state[key].dim() - 1))


def _relabelling(
    recipes: Sequence[Recipe], tasks: Mapping[str, Sequence[int]] | None, labels: Tensor, device: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of labels [networks or 1, N] and the numbers of networks, to each network's own labels."""
    if not tasks:
        return lambda own, networks: own
    names = list(tasks)
    table = torch.tensor([list(tasks[name]) for name in names], device=device)  # [tasks, classes]
    if table.shape[1] <= int(labels.max()):
        raise ValueError(f"tasks relabel {table.shape[1]} classes; the labels go up to {int(labels.max())}")
    task_of = torch.tensor([names.index(recipe.task) for recipe in recipes], device=device)  # type: ignore[arg-type]

    def relabel(own: Tensor, networks: Tensor) -> Tensor:
        rows = table[task_of[networks.to(device)]]  # [networks, classes]
        return rows.gather(1, own.expand(len(rows), -1))

    return relabel


def _check(recipes: Sequence[Recipe], data: Splits, tasks: Mapping[str, Sequence[int]] | None, batch_size: int) -> None:
    if not recipes:
        raise ValueError("there are no recipes, so there is no network to train")
    if "train" not in data:
        raise ValueError(f"data needs 'train'; got {sorted(data)}")
    if not 1 <= batch_size <= len(data["train"][0]):
        raise ValueError(f"batch_size must be from 1 to {len(data['train'][0])}, the training images; got {batch_size}")
    for recipe in recipes:
        if recipe.steps < 0 or not 0 < recipe.data_fraction <= 1:
            raise ValueError(f"{recipe.run!r}: steps must not be negative and data_fraction in (0, 1]; got {recipe}")
        if tasks and recipe.task not in tasks:
            raise ValueError(f"{recipe.run!r}: the task {recipe.task!r} is not among {sorted(tasks)[:10]}")
