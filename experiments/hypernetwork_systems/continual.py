"""Tasks one after the other without their data: a hypernetwork that keeps what it wrote for earlier ones.

``python -m experiments.hypernetwork_systems.continual`` learns five tasks of two digits each. What the hypernetwork
writes for earlier tasks is held where it was when a task began (von Oswald et al., "Continual learning with
hypernetworks", 2020, arXiv 1906.00695). Baselines: one network fine-tuned from task to task, and one trained on all
tasks at once, both with a head for each task. The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen import HyperNetwork
from hypergen.data import DigitsDataModule
from hypergen.evaluation.results import Results, Row

TASKS = 5
_BATCH, _RATE = 64, 1e-3
Call = Callable[[Tensor, int], Tensor]


def network(outputs: int = 2) -> nn.Module:
    """Images ``[batch, 64]`` to logits."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, outputs))


def tasks(split: str) -> list[tuple[Tensor, Tensor]]:
    """Images and labels 0 and 1 of each pair of digits."""
    images, labels = DigitsDataModule().tensors(split)
    pairs = [labels // 2 == task for task in range(TASKS)]
    return [(images[own].flatten(1), labels[own] % 2) for own in pairs]


def accuracies(call: Call, data: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Of each task, ``[tasks]``."""
    with torch.no_grad():
        return torch.tensor([(call(x, task).argmax(1) == y).float().mean() for task, (x, y) in enumerate(data)])


def learn(
    call: Call,
    parameters: list[nn.Parameter],
    data: list[tuple[Tensor, Tensor]],
    order: Sequence[int],
    steps: int,
    generator: torch.Generator,
    penalty: Callable[[], Tensor | float] = lambda: 0.0,
) -> None:
    """Adam on batches of the tasks in ``order``, one after the other, with a penalty besides."""
    optimizer = torch.optim.Adam(parameters, _RATE)
    for step in range(steps):
        task = order[step % len(order)]
        images, labels = data[task]
        chosen = torch.randint(len(labels), (_BATCH,), generator=generator)
        loss = F.cross_entropy(call(images[chosen], task), labels[chosen]) + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def with_hypernetwork(seed: int, steps: int, strength: float) -> tuple[Tensor, Tensor]:
    """Accuracy of each task when it was learnt, and after the last one."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    train, test = tasks("train"), tasks("test")
    hyper = HyperNetwork(network(), {"categories": TASKS, "dim": 16}, heads="chunked", base="fixed", chunk_size=256)

    def call(images: Tensor, task: int) -> Tensor:
        return hyper(images, condition=torch.tensor(task))  # type: ignore[no-any-return]

    then = []
    for task in range(TASKS):
        earlier = torch.arange(task)
        with torch.no_grad():
            kept = {} if not task else {k: v.clone() for k, v in hyper.generate_stacked(earlier).items()}

        def penalty(earlier: Tensor = earlier, kept: dict[str, Tensor] = kept) -> Tensor | float:
            if not kept:
                return 0.0
            now = hyper.generate_stacked(earlier)
            return strength * sum((now[k] - v).square().sum() for k, v in kept.items()) / len(earlier)

        learn(call, list(hyper.parameters()), train, [task], steps, generator, penalty)
        then.append(accuracies(call, test)[task])
    return torch.stack(then), accuracies(call, test)


def with_heads(seed: int, steps: int, joint: bool) -> tuple[Tensor, Tensor]:
    """The same for one network with a head for each task, fine-tuned in turn or trained on all at once."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    train, test = tasks("train"), tasks("test")
    model = network(2 * TASKS)

    def call(images: Tensor, task: int) -> Tensor:
        return model(images)[:, 2 * task : 2 * task + 2]  # type: ignore[no-any-return]

    if joint:
        learn(call, list(model.parameters()), train, range(TASKS), steps * TASKS, generator)
        after = accuracies(call, test)
        return after, after
    then = []
    for task in range(TASKS):
        learn(call, list(model.parameters()), train, [task], steps, generator)
        then.append(accuracies(call, test)[task])
    return torch.stack(then), accuracies(call, test)


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run, print a table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="of each task")
    parser.add_argument("--strength", type=float, default=1.0, help="of the penalty on outputs for earlier tasks")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    aims = {"hypernetwork_accuracy": (0.97, "higher"), "hypernetwork_forgetting": (0.01, "lower")}
    ways: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
        "hypernetwork": lambda seed: with_hypernetwork(seed, options.steps, options.strength),
        "hypernetwork_without_penalty": lambda seed: with_hypernetwork(seed, options.steps, 0.0),
        "fine_tuning": lambda seed: with_heads(seed, options.steps, joint=False),
        "joint": lambda seed: with_heads(seed, options.steps, joint=True),
    }
    rows = []
    for name, way in ways.items():
        runs = [way(seed) for seed in range(options.seeds)]
        for figure, values in (
            ("accuracy", [after.mean().item() for _, after in runs]),
            ("forgetting", [(then - after)[:-1].mean().item() for then, after in runs]),
        ):
            aim, better = aims.get(f"{name}_{figure}", (None, "lower" if figure == "forgetting" else "higher"))
            rows.append(Row.from_values(f"{name}_{figure}", values, aim=aim, better=better))
    results = Results("continual", 0, tuple(rows), {"steps": options.steps, "strength": options.strength})
    results.print_table(Console())
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
