"""A picture in, an implicit representation of it out, in one pass.

``python -m experiments.hypernetwork_systems.implicit`` writes a SIREN (Sitzmann et al., 2020, arXiv 2006.09661) for
each of scikit-learn's digits, trained by the error of what the SIREN draws, and measures the peak signal-to-noise ratio
of unseen digits from one pass and after steps of Adam on each. Baseline: an initialisation that is meta-learned by
Reptile (Nichol et al., 2018, arXiv 1803.02999). The last line is the figures as JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from hypergen import HyperNetwork
from hypergen.architectures.families.siren import Siren
from hypergen.data import DigitsDataModule
from hypergen.evaluation.results import Results, Row

_BATCH, _GOAL = 64, 30.0
_RATES = (1e-3, 3e-3, 1e-2)  # Of the steps on one picture; chosen on validation pictures for each start.
_MOST_STEPS = 200


def network() -> nn.Module:
    """Coordinates ``[points, 2]`` to brightness ``[points, 1]``."""
    return Siren((32, 32))


def pictures(split: str) -> Tensor:
    """Pictures from 0 to 1, ``[pictures, 64]``."""
    images = DigitsDataModule().load()[split][0]
    return images.flatten(1)


def coordinates() -> Tensor:
    """Of the 8×8 pixels, from -1 to 1, ``[64, 2]``."""
    line = torch.linspace(-1, 1, 8)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


def ratio(drawn: Tensor, wanted: Tensor) -> float:
    """Mean peak signal-to-noise ratio in decibels of pictures ``[pictures, 64]`` with a peak of 1."""
    return (-10 * (drawn - wanted).square().mean(1).clamp(min=1e-10).log10()).mean().item()


def train_hypernetwork(steps: int, rate: float, hidden: Sequence[int], seed: int) -> HyperNetwork:
    """A hypernetwork from the 64 pixels to the SIREN."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    hyper = HyperNetwork(network(), {"features": 64}, encoding="none", hidden=list(hidden))
    images, points = pictures("train"), coordinates()
    optimizer = torch.optim.Adam(hyper.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        wanted = images[torch.randint(len(images), (_BATCH,), generator=generator)]
        # Mixtures of two digits: there are only 1,077 of them.
        mixed = torch.rand(_BATCH, 1, generator=generator).round()
        wanted = mixed * wanted + (1 - mixed) * (wanted + wanted.roll(1, 0)) / 2
        drawn = hyper(points, condition=wanted, shared_inputs=True)[..., 0]
        loss = (drawn - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return hyper


def meta_learned(steps: int, inner: int, rate: float, seed: int) -> dict[str, Tensor]:
    """An initialisation from which a few steps of Adam draw a picture, by Reptile over batches of pictures."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    start = {name: value.detach() for name, value in network().named_parameters()}
    images = pictures("train")
    for step in range(steps):
        wanted = images[torch.randint(len(images), (_BATCH,), generator=generator)]
        *_, values = _fitted(_repeated(start, _BATCH), wanted, rate, inner)
        share = 0.5 * (1 - step / steps)
        start = {name: value + share * (values[name].mean(0) - value) for name, value in start.items()}
    return start


def _repeated(values: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape).clone() for name, value in values.items()}


def _fitted(values: dict[str, Tensor], wanted: Tensor, rate: float, steps: int):  # type: ignore[no-untyped-def]
    """The values of each picture's SIREN ``[pictures, …]`` after each step of Adam on its own pixels."""
    module, points = network(), coordinates()

    def loss(own: dict[str, Tensor], picture: Tensor) -> Tensor:
        return (functional_call(module, own, (points,))[:, 0] - picture).square().mean()

    gradients = vmap(grad(loss))
    values = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    optimizer = torch.optim.Adam(values.values(), rate)
    for _ in range(steps):
        found = gradients({name: value.detach() for name, value in values.items()}, wanted)
        for name, value in values.items():
            value.grad = found[name]
        optimizer.step()
        yield {name: value.detach() for name, value in values.items()}


def curve(values: dict[str, Tensor], wanted: Tensor, rate: float) -> list[float]:
    """The ratio at the start and after each step."""
    module, points = network(), coordinates()

    def draw(own: dict[str, Tensor]) -> Tensor:
        return functional_call(module, own, (points,))[:, 0]  # type: ignore[no-any-return]

    found = [ratio(vmap(draw)(values), wanted)]
    for own in _fitted(values, wanted, rate, _MOST_STEPS):
        found.append(ratio(vmap(draw)(own), wanted))
    return found


def run(seed: int, steps: int, rate: float, hidden: Sequence[int], meta_steps: int) -> dict[str, float]:
    """Ratios of unseen digits and steps to 30 dB from both starts."""
    hyper = train_hypernetwork(steps, rate, hidden, seed)
    # As many passes over pictures as the hypernetwork has, 10 for each step of Reptile.
    learned = meta_learned(meta_steps, 10, 1e-2, seed)
    validation, test = pictures("validation"), pictures("test")
    figures: dict[str, float] = {}
    reached = {}
    for name in ("hypernetwork", "meta_learned"):

        def start(images: Tensor, name: str = name) -> dict[str, Tensor]:
            if name == "meta_learned":
                return _repeated(learned, len(images))
            with torch.no_grad():
                return dict(hyper.generate_stacked(images))

        best = max(_RATES, key=lambda r: curve(start(validation), validation, r)[10])
        found = curve(start(test), test, best)
        figures[f"{name}_one_pass_db"], figures[f"{name}_10_steps_db"] = found[0], found[10]
        reached[name] = next((step for step, value in enumerate(found) if value >= _GOAL), 2 * _MOST_STEPS)
        figures[f"{name}_steps_to_30_db"] = float(reached[name])
    figures["steps_over_meta_learned"] = reached["hypernetwork"] / max(reached["meta_learned"], 1)
    return figures


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run, print a table and, last, its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6000, help="of the hypernetwork")
    parser.add_argument("--rate", type=float, default=2e-3, help="its highest learning rate")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 128])
    parser.add_argument("--meta-steps", type=int, default=600, help="of Reptile, of ten steps on a batch each")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = [run(seed, options.steps, options.rate, options.hidden, options.meta_steps) for seed in range(options.seeds)]
    aims = {
        "hypernetwork_one_pass_db": (25.0, "higher"),
        "hypernetwork_10_steps_db": (32.0, "higher"),
        "steps_over_meta_learned": (0.5, "lower"),
    }
    rows = []
    for figure in runs[0]:
        aim, better = aims.get(figure, (None, "lower" if "steps_to" in figure else "higher"))
        rows.append(Row.from_values(figure, [one[figure] for one in runs], aim=aim, better=better))  # type: ignore[arg-type]
    results = Results("implicit", 0, tuple(rows), vars(options))
    results.print_table(Console())
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
