"""A whole Pareto front from one hypernetwork: a preference in, a network out.

``python -m experiments.hypernetwork_systems.pareto`` weighs two losses of scikit-learn's digits that share a bottleneck
of four units, classification and reconstruction, by a preference (Navon et al., "Learning the Pareto Front with
Hypernetworks", 2021, arXiv 2010.04104). Baseline: a network trained for each of eleven preferences. The hypernetwork
takes a tenth of their steps together. The last line is the figures as JSON.
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

PREFERENCES = tuple(i / 10 for i in range(11))
RATES = (1e-3, 3e-3, 1e-2)
_CLASSES, _BATCH = 10, 64


def network() -> nn.Module:
    """Images ``[batch, 64]`` to logits and the image again ``[batch, 10 + 64]``."""
    body = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)]
    return nn.Sequential(*body, nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, _CLASSES + 64))


def losses(outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and squared error, ``[2]``."""
    return torch.stack([F.cross_entropy(outputs[:, :_CLASSES], labels), F.mse_loss(outputs[:, _CLASSES:], images)])


def train(
    call: Callable[[Tensor, Tensor], Tensor],
    parameters: list[nn.Parameter],
    data: tuple[Tensor, Tensor],
    draw: Callable[[torch.Generator], Tensor],
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Minimise the losses weighed by a preference that is drawn for each batch; one-cycle Adam."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    images, labels = data
    for _ in range(steps):
        chosen = torch.randint(len(labels), (_BATCH,), generator=generator)
        preference = draw(generator)
        both = losses(call(images[chosen], preference), images[chosen], labels[chosen])
        loss = preference * both[0] + (1 - preference) * both[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def hypervolume(points: Tensor, reference: Tensor) -> float:
    """Area that points ``[N, 2]`` dominate below a reference ``[2]``; both losses, lower is better."""
    area, ceiling = 0.0, reference[1].item()
    for first, second in sorted(points[(points < reference).all(1)].tolist()):
        if second < ceiling:
            area += (reference[0].item() - first) * (ceiling - second)
            ceiling = second
    return area


def front(call: Callable[[Tensor, Tensor], Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    """Both losses at each preference, ``[11, 2]``."""
    images, labels = data
    with torch.no_grad():
        return torch.stack([losses(call(images, torch.tensor(p)), images, labels) for p in PREFERENCES])


def run(seed: int, steps: int, share: float) -> dict[str, float]:
    """Hypervolumes on test images of both, at rates that validation images choose."""
    data = DigitsDataModule()
    splits = {name: (images.flatten(1), labels) for name in ("train", "validation", "test")
              for images, labels in [data.tensors(name)]}  # fmt: skip
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"separate": [], "hypernetwork": []}
    for rate in RATES:
        models = []
        for preference in PREFERENCES:
            torch.manual_seed(seed)
            model = network()
            weights = list(model.parameters())
            train(lambda x, _, m=model: m(x), weights, splits["train"],
                  lambda _, p=preference: torch.tensor(p), steps, rate, seed)  # fmt: skip
            models.append(model)

        def separate(x: Tensor, p: Tensor, models: list[nn.Module] = models) -> Tensor:
            return models[round(10 * float(p))](x)  # type: ignore[no-any-return]

        torch.manual_seed(seed)
        hyper = HyperNetwork(network(), 1)

        def conditioned(x: Tensor, p: Tensor, hyper: HyperNetwork = hyper) -> Tensor:
            return hyper(x, condition=p[None])  # type: ignore[no-any-return]

        train(conditioned, list(hyper.parameters()), splits["train"], lambda g: torch.rand((), generator=g),
              round(share * len(PREFERENCES) * steps), rate, seed)  # fmt: skip
        for name, call in (("separate", separate), ("hypernetwork", conditioned)):
            found[name].append((front(call, splits["validation"]), front(call, splits["test"])))
    # The worst that separate networks have of each loss: that of the single-minded ones.
    reference = torch.stack([test for _, test in found["separate"]]).amax((0, 1))
    chosen = {name: max(pairs, key=lambda pair: hypervolume(pair[0], reference))[1] for name, pairs in found.items()}
    volumes = {name: hypervolume(points, reference) for name, points in chosen.items()}
    return {**volumes, "share": volumes["hypernetwork"] / volumes["separate"]}


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run, print a table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600, help="of each network of one preference")
    parser.add_argument("--share", type=float, default=0.1, help="of their steps together, for the hypernetwork")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = [run(seed, options.steps, options.share) for seed in range(options.seeds)]
    aims = {"share": 0.97}
    rows = [
        Row.from_values(f"pareto_hypervolume_{name}", [one[name] for one in runs], aim=aims.get(name))
        for name in ("separate", "hypernetwork", "share")
    ]
    results = Results("pareto", 0, tuple(rows), {"steps": options.steps, "share": options.share})
    results.print_table(Console())
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
