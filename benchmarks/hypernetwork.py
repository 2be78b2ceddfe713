"""Time and try hypernetworks: batches of conditions against a loop, compiled graphs, scales, networks of the suites.

``python -m benchmarks.hypernetwork`` prints a table, and as its last line the same figures as JSON.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.trace_suites import load_suite
from hypergen import HyperNetwork
from hypergen.errors import HypergenError
from hypergen.evaluation.results import Results, Row

PARTS = ("scale", "batched", "compiled", "learning", "suites")
_CONDITIONS = 64


class SmallGPT(nn.Module):
    """A language model of two blocks, width 64, on 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(65, 64), nn.Parameter(torch.zeros(16, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 65)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits ``[batch, tokens, 65]``."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.blocks(self.embedding(tokens) + self.positions, mask, is_causal=True))  # type: ignore[no-any-return]


def networks() -> dict[str, tuple[nn.Module, Tensor, dict[str, Any], float]]:
    """Network, inputs for each condition, options, and the speed-up to reach, by name."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    cnn = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10))
    )
    lora = {"apply": "lora", "rank": 4, "parameters": ["*weight"]}
    return {
        "mlp": (mlp, torch.randn(_CONDITIONS, 64), {}, 8.0),
        "cnn": (cnn, torch.randn(_CONDITIONS, 1, 8, 8), {}, 5.0),
        "gpt_lora": (SmallGPT().eval(), torch.randint(65, (_CONDITIONS, 16)), lora, 5.0),
    }


def awake(hyper: HyperNetwork) -> HyperNetwork:
    """A hypernetwork whose heads do not start at zero."""
    for readout in hyper.heads.readouts:
        nn.init.normal_(readout.weight, std=0.02)  # type: ignore[arg-type]
    return hyper


def batched_rows(repeats: int) -> list[Row]:
    """Forward and backward of 64 conditions in one batch, over one after the other; and the greatest difference."""
    rows = []
    for name, (network, inputs, options, aim) in networks().items():
        hyper = awake(HyperNetwork(network, 2, **options))
        conditions = torch.rand(_CONDITIONS, 2)

        def at_once(hyper: HyperNetwork = hyper, inputs: Tensor = inputs, conditions: Tensor = conditions) -> Tensor:
            return hyper(inputs, condition=conditions)  # type: ignore[no-any-return]

        def one_by_one(hyper: HyperNetwork = hyper, inputs: Tensor = inputs, conditions: Tensor = conditions) -> Tensor:
            every = zip(inputs, conditions, strict=True)
            return torch.cat([hyper(each[None], condition=condition) for each, condition in every])

        ratios = []
        for repeat in range(repeats + 1):
            elapsed = [_seconds(call) for call in (at_once, one_by_one)]
            if repeat:  # the first warms up
                ratios.append(elapsed[1] / elapsed[0])
        with torch.no_grad():
            difference = float((at_once() - one_by_one()).abs().max())
        rows.append(Row.from_values(f"batched_over_loop_{name}", ratios, aim=aim, statistic="median"))
        rows.append(Row(f"batched_difference_{name}", difference, aim=1e-6, better="lower"))
    return rows


def compiled_rows() -> list[Row]:
    """Graphs and breaks, one condition and a batch of them."""
    graphs, breaks = [], []
    for network, inputs, options, _ in networks().values():
        hyper = awake(HyperNetwork(network, 2, **options))
        conditions = torch.rand(_CONDITIONS, 2)
        for condition in (conditions[0], conditions):
            torch._dynamo.reset()
            found = torch._dynamo.explain(hyper)(inputs, condition=condition)
            graphs.append(found.graph_count)
            breaks.append(found.graph_break_count)
    return [
        Row.from_values("compiled_graphs", graphs, aim=1, better="lower"),
        Row.from_values("compiled_breaks", breaks, aim=0, better="lower"),
    ]


def scale_rows(seeds: int) -> list[Row]:
    """Deviation of generated weights when the condition grows 100 times; plain ones beside it."""
    rows = []
    for encoding, kind in (("cos_sin", "continuous"), ("l2", "features"), ("none", "features")):
        ratios = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            hyper = HyperNetwork(
                nn.Linear(64, 64), {kind: 16}, encoding=encoding, init_scale=1.0, hidden=[128, 128], base="fixed"
            )
            if encoding == "none":  # as plain hypernetworks are: what the heads give are the weights
                hyper.base.get("weight").zero_()
            small = torch.rand(16, 16) * 0.01
            with torch.no_grad():
                sizes = [float(hyper.generate_stacked(each)["weight"].std()) for each in (small, 100 * small)]
            ratio = sizes[1] / sizes[0]
            ratios.append(max(ratio, 1 / ratio))
        name = "plain" if encoding == "none" else encoding
        aim = None if encoding == "none" else 1.1
        rows.append(Row.from_values(f"scale_ratio_{name}", ratios, aim=aim, better="lower"))
    return rows


class Plain(nn.Module):
    """A hypernetwork as they are usually written: raw condition, default initialisation, no independent values."""

    def __init__(self, target: nn.Module, hidden: int) -> None:
        super().__init__()
        self.target = [target]
        self.shapes = {name: value.shape for name, value in target.named_parameters()}
        self.net = nn.Sequential(nn.Linear(1, hidden), nn.LeakyReLU(), nn.Linear(hidden, hidden), nn.LeakyReLU())
        self.heads = nn.ModuleList(nn.Linear(hidden, math.prod(shape)) for shape in self.shapes.values())

    def forward(self, inputs: Tensor, condition: Tensor) -> Tensor:
        """Outputs of the target under one condition."""
        state = self.net(condition)
        heads = zip(self.shapes.items(), self.heads, strict=True)
        values = {name: head(state).reshape(shape) for (name, shape), head in heads}
        return torch.func.functional_call(self.target[0], values, (inputs,))  # type: ignore[no-any-return]


def tasks() -> dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Any]]:
    """Target, what a condition makes of images and labels, and the loss, for kinds of task of the paper.

    Rescaled inputs (its scale-space networks), a weighting of two losses (its registration networks), and the strength
    of a prior (its Bayesian networks; here label smoothing).
    """

    def rescale(images: Tensor, gamma: Tensor) -> Tensor:
        size = max(2, round(8 * float(1 - 0.6 * gamma)))
        return F.interpolate(F.interpolate(images, size=(size, size), mode="bilinear"), size=(8, 8), mode="bilinear")

    def classify() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def denoise() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64))

    def smooth_loss(outputs: Tensor, clean: Tensor, labels: Tensor, gamma: Tensor) -> Tensor:
        picture = outputs.reshape(-1, 8, 8)
        rough = picture.diff(dim=1).square().mean() + picture.diff(dim=2).square().mean()
        return (1 - gamma) * F.mse_loss(outputs, clean.flatten(1)) + gamma * 0.2 * rough

    def smoothed_labels(outputs: Tensor, clean: Tensor, labels: Tensor, gamma: Tensor) -> Tensor:
        logs = outputs.log_softmax(1)
        own = -logs.gather(1, labels[:, None]).mean()
        return (1 - 0.5 * gamma) * own - 0.5 * gamma * logs.mean()

    return {
        "rescaling": (classify, rescale, lambda o, c, y, g: F.cross_entropy(o, y)),  # type: ignore[dict-item]
        "two_losses": (denoise, lambda x, g: x + 0.2 * torch.randn_like(x), smooth_loss),  # type: ignore[dict-item]
        "label_prior": (classify, lambda x, g: x, smoothed_labels),  # type: ignore[dict-item]
    }


def learning_rows(seeds: int, steps: int) -> list[Row]:
    """Steps that it takes to the plain hypernetwork's best loss, as a share of the plain one's own steps to it."""
    from hypergen.data import DigitsDataModule

    data = DigitsDataModule()
    splits = {split: data.tensors(split) for split in ("train", "validation")}
    rows = []
    for name, (build, change, loss) in tasks().items():
        shares, losses = [], []
        for seed in range(seeds):
            curves = []
            for kind in ("plain", "invariant"):
                torch.manual_seed(seed)
                target = build()
                hyper = Plain(target, 64) if kind == "plain" else HyperNetwork(target, 1)
                curves.append(_curve(hyper, change, loss, splits, steps, seed))
            best = min(curves[0])
            own = curves[0].index(best) + 1
            # One that never gets there counts as if it did one measurement after the last.
            taken = next((i for i, value in enumerate(curves[1]) if value <= best), len(curves[1])) + 1
            shares.append(taken / own)
            losses.append(min(curves[1]) / best)
            print(f"{name}, seed {seed}: share {shares[-1]:.3f}, best loss over plain {losses[-1]:.3f}", flush=True)
        rows.append(Row.from_values(f"steps_share_{name}", shares, aim=0.5, better="lower"))
        rows.append(Row.from_values(f"best_loss_over_plain_{name}", losses, better="lower"))
    return rows


def _curve(hyper: nn.Module, change: Any, loss: Any, splits: Any, steps: int, seed: int) -> list[float]:
    """Validation losses, every tenth step, the mean over five conditions."""
    optimizer = torch.optim.Adam(hyper.parameters(), 1e-3)
    random = torch.Generator().manual_seed(seed)
    images, labels = splits["train"]
    found = []
    for step in range(1, steps + 1):
        rows = torch.randint(len(images), (64,), generator=random)
        gamma = torch.rand(1, generator=random)
        optimizer.zero_grad()
        value = loss(hyper(change(images[rows], gamma), condition=gamma), images[rows], labels[rows], gamma)
        value.backward()
        optimizer.step()
        if step % 10 == 0:
            found.append(_validation(hyper, change, loss, splits["validation"]))
    return found


@torch.no_grad()
def _validation(hyper: nn.Module, change: Any, loss: Any, split: Any) -> float:
    images, labels = split
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same noise each time
        every = [torch.tensor([value]) for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
        return statistics.fmean(
            float(loss(hyper(change(images, gamma), condition=gamma), images, labels, gamma)) for gamma in every
        )


def suite_rows(suites: Sequence[str], limit: int, console: Console) -> list[Row]:
    """The share of the suites' networks that are wrapped and trained a step, a condition for each network included."""
    worked, refused, broken = [], [], []
    for suite in suites:
        cases, _ = load_suite(suite)
        for case in cases[:: max(1, len(cases) // limit)][:limit]:
            try:
                torch.manual_seed(0)
                network = case.build()
                inputs = case.inputs() if case.inputs is not None else None
                if inputs is None or sum(p.numel() for p in network.parameters()) > 5e7:
                    continue
            except Exception:
                continue
            try:
                _one_step(network, inputs)
                worked.append(f"{suite}:{case.name}")
            except HypergenError as error:
                refused.append(f"{suite}:{case.name}")
                console.print(f"{suite}:{case.name} refused: {error}", markup=False, soft_wrap=True)
            except Exception as error:
                broken.append(f"{suite}:{case.name}")
                console.print(f"{suite}:{case.name} {type(error).__name__}: {error}", markup=False, soft_wrap=True)
    tried = len(worked) + len(refused) + len(broken)
    return [
        Row("suites_wrapped_share", len(worked) / max(tried, 1), n=tried, aim=0.95),
        Row("suites_refused_clearly", len(refused), n=tried),
        Row("suites_broken", len(broken), n=tried, aim=0, better="lower"),
    ]


def _one_step(network: nn.Module, inputs: Any) -> None:
    from torch.utils._pytree import tree_leaves

    arguments = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, dict) else (inputs,)
    keywords = inputs if isinstance(inputs, dict) else {}
    network.eval()
    frozen = not any(p.requires_grad for p in network.parameters())
    hyper = awake(HyperNetwork(network, 1, apply="lora" if frozen else "full", heads="chunked", hidden=[16]))
    optimizer = torch.optim.SGD(hyper.parameters(), 1e-4)
    for condition, shared in (([0.5], False), (torch.rand(2, 1), True)):
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = hyper(*arguments, condition=condition, shared_inputs=shared, **keywords)
        floats = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        sum(leaf.float().square().mean() for leaf in floats).backward()  # type: ignore[union-attr]
        optimizer.step()


def _seconds(call: Callable[[], Tensor]) -> float:
    begun = time.perf_counter()
    call().float().square().mean().backward()
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the benchmark, print its table and, last, its JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.hypernetwork", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of timing")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of scales and learning")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each hypernetwork")
    parser.add_argument("--suites", nargs="+", default=["pytorch", "torch_geometric", "transformers"], help="suites")
    parser.add_argument("--limit", type=int, default=30, help="networks of each suite, evenly spread")
    options = parser.parse_args(arguments)
    console = Console(width=max(Console().width, 110))
    parts: dict[str, Callable[[], list[Row]]] = {
        "scale": lambda: scale_rows(options.seeds),
        "batched": lambda: batched_rows(options.repeats),
        "compiled": compiled_rows,
        "learning": lambda: learning_rows(options.seeds, options.steps),
        "suites": lambda: suite_rows(options.suites, options.limit, console),
    }
    rows = [row for part in options.parts for row in parts[part]()]
    results = Results("benchmarks.hypernetwork", 0, tuple(rows), {**vars(options), "threads": torch.get_num_threads()})
    results.print_table(console)
    print(results.to_json())
    return results


if __name__ == "__main__":
    main()
