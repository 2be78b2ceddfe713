"""Coordinate checks and transfer of learning rates over widths: ``python -m benchmarks.scaling``.

Networks are built at widths 64 to 1,024: an MLP, a ViT of timm and a GPT with its head tied to the embedding. The
coordinate check trains on random values; the transfer of learning rates on scikit-learn's digits (MLP alone, for time).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from hypergen.architectures.families.gpt import GPT
from hypergen.data import DigitsDataModule
from hypergen.evaluation.results import Results, Row
from hypergen.scaling import coordinate_check, scaling_rules
from hypergen.scaling.report import rescale
from hypergen.scaling.rules import Rule

WIDTHS = (64, 128, 256, 512, 1024)
RULES: tuple[Rule, ...] = ("standard", "mup")


def mlp(width: int, inputs: int = 64) -> nn.Module:
    """Three layers and a readout."""
    hidden = [layer for _ in range(2) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


def vit(width: int) -> nn.Module:
    """A ViT of timm with heads of 32 channels."""
    import timm

    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": width, "num_heads": width // 32, "depth": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **sizes)


def gpt(width: int) -> nn.Module:
    """A GPT with heads of 32 channels and a tied head."""
    return GPT(96, 16, width, 2, width // 32)


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], object]] = {
    "mlp": (mlp, None),
    "vit": (vit, torch.zeros(8, 3, 16, 16)),
    "gpt": (gpt, torch.zeros(8, 16, dtype=torch.int64)),
}


def best_rates(rule: Rule, widths: Sequence[int], seeds: int, steps: int) -> list[float]:
    """Base-2 logarithm of the best learning rate of every width, by the mean loss over the last tenth of training."""
    images, labels = DigitsDataModule().tensors("train")
    images = images.flatten(1)
    found = []
    for width in widths:
        losses: dict[int, float] = {}
        for power in range(-14, -3):
            total = 0.0
            for seed in range(seeds):
                torch.manual_seed(seed)
                model, base = mlp(width), mlp(widths[0])
                report = scaling_rules(model, base, rule)
                rescale(model, report)
                optimizer = torch.optim.AdamW(report.parameter_groups(model, 2.0**power))
                order = torch.Generator().manual_seed(seed)
                for step in range(steps):
                    batch = torch.randint(len(images), (64,), generator=order)
                    loss = F.cross_entropy(model(images[batch]), labels[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    if step >= steps - steps // 10:
                        total += float(loss.detach())
            losses[power] = total if math.isfinite(total) else math.inf
        found.append(float(min(losses, key=lambda power: losses[power])))
    return found


def main(arguments: Sequence[str] | None = None) -> Results:
    """Measure, print the table and, last, its JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of the coordinate check")
    parser.add_argument("--training-steps", type=int, default=100, help="of the transfer of learning rates")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    for rule in RULES:
        aim = 2.0 if rule == "mup" else None
        for name, (build, inputs) in NETWORKS.items():
            found = coordinate_check(
                build, WIDTHS, rule, steps=options.steps, lr=3e-3, seeds=options.seeds, example_inputs=inputs
            )
            Console(width=110).print(found)
            figure = f"activation_change_ratio_{name}_{rule}"
            rows.append(Row(figure, found.worst, n=options.seeds, aim=aim, better="lower"))
    for rule in RULES:
        rates = best_rates(rule, WIDTHS[::2], options.seeds, options.training_steps)
        moved = max(rates) - min(rates)
        Console().print(f"{rule}: best learning rates 2^{rates} at widths {WIDTHS[::2]}")
        aim = 1.0 if rule == "mup" else None
        rows.append(Row(f"best_rate_moves_log2_mlp_{rule}", moved, n=options.seeds, aim=aim, better="lower"))
    results = Results("scaling", 0, tuple(rows))
    results.print_table(Console(width=110))
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
