"""Structured pruning of networks of timm, torchvision and Transformers, beside torch-pruning in the same process.

Every network keeps half of the units of every group that can be pruned, once with exact norms and once with norms over
the channels that are kept. torch-pruning (Fang et al., *DepGraph: Towards Any Structural Pruning*, 2023, arXiv
2301.12900) is asked for the same ratio, with its magnitude importance, without the layers that give the outputs, and
with the number of heads of attention, as in its examples.

A network is right if it runs with outputs of the same shapes in evaluation mode, and in training mode where the whole
one does; hypergen's exact one has to equal, in float64, the whole network with the removed units at zero.
torch-pruning's networks are not compared by value. ``python -m benchmarks.pruning --suite timm --output FOLDER`` goes
on where it stopped, and prints its numbers as JSON on the last line.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.sweeps.network_sweep import Skipped, built_and_traced, one_line, run_sweep
from benchmarks.trace_suites import Case
from hypergen.evaluation.results import Row
from hypergen.graph.calls import named_tensors
from hypergen.graph.inputs import example_arguments
from hypergen.graph.tracing.tensors import map_tensors
from hypergen.symmetry.prune.pruner import Pruner, half_of
from hypergen.symmetry.prune.trial import TOLERANCE, Trial, difference

_MOST_PARAMETERS = 100_000_000
_EQUAL = 0.005  # of the parameters: shares that are as close count as equal


@dataclass
class Pruning:
    """What came out of pruning one network.

    Attributes:
        case: Name of the network.
        skipped: Why it was not pruned.
        failure: Why hypergen's network is wrong.
        exact: Share of the parameters that hypergen removes with exact norms.
        kept: Share that it removes with norms over the kept channels.
        seconds: CPU time of building a pruner with exact norms.
        kept_seconds: CPU time of building one with norms over the kept channels, and pruning.
        peer: Share that torch-pruning removes; 0 where its network does not run.
        peer_seconds: CPU time of torch-pruning.
        peer_failure: Why torch-pruning's network does not run.
        error: Largest relative difference of hypergen's exact network from the zeroed one, in float64.
        groups: Groups of units of the network.
        left: Those that stay with exact norms, by their reasons.
        unsupported: Operations without a rule of symmetry.
    """

    case: str
    skipped: str = ""
    failure: str = ""
    exact: float = 0.0
    kept: float = 0.0
    seconds: float = 0.0
    kept_seconds: float = 0.0
    peer: float = 0.0
    peer_seconds: float = 0.0
    peer_failure: str = ""
    error: float = 0.0
    groups: int = 0
    left: dict[str, int] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()


def compare(case: Case) -> Pruning:
    """Prune a network with hypergen and with torch-pruning."""
    torch.set_num_threads(1)
    result = Pruning(case.name)
    model, inputs, _ = built_and_traced(case, _MOST_PARAMETERS)
    arguments = map_tensors(example_arguments(model, inputs), _filled)
    whole = _shapes(model, arguments, False)
    if isinstance(whole, str):
        raise Skipped(f"does not run: {whole}")
    for norms in ("exact", "kept"):
        start = time.process_time()
        try:
            pruner = Pruner(model, inputs, norms=norms)  # type: ignore[arg-type]
            built = time.process_time()
            keep = half_of(pruner.groups)
            small = pruner.prune(keep)
        except Exception as error:
            result.failure = f"norms={norms}: {one_line(error)}"
            return result
        share = 1 - _size(small.model) / max(_size(model), 1)
        if norms == "exact":
            result.exact, result.seconds = share, built - start
            result.groups, result.unsupported = len(pruner.symmetry.groups), pruner.symmetry.unsupported
            for reason in pruner.left.values():
                result.left[reason[:120]] = result.left.get(reason[:120], 0) + 1
            result.error = _apart(model, inputs, pruner, keep, small.model)
        else:
            result.kept, result.kept_seconds = share, time.process_time() - start
        result.failure = result.failure or _wrong(model, small.model, arguments)
        if result.error > TOLERANCE:
            result.failure = result.failure or f"differs from the zeroed network by {result.error:.1e}"
    _prune_with_peer(result, model, arguments)
    return result


def _apart(model: nn.Module, inputs: Any, pruner: Pruner, keep: dict[str, Tensor], small: nn.Module) -> float:
    """How far the pruned network is from the whole one without its units, on other random values than the pruner's."""
    trial = Trial(model, inputs, seed=1)
    expected = trial.run(pruner.zeroed(trial.tensors, keep, 1e-60), model)
    return difference(trial.run(pruner.slice(trial.tensors, keep), small), expected)


def _filled(tensor: Tensor) -> Tensor:
    if not tensor.is_meta:
        return tensor
    return torch.randn(tensor.shape) if tensor.is_floating_point() else torch.ones(tensor.shape, dtype=tensor.dtype)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _shapes(model: nn.Module, arguments: Any, training: bool) -> list[Any] | str:
    """The shapes of the outputs, or why there are none."""
    args, kwargs = arguments
    try:
        with torch.no_grad():
            result = copy.deepcopy(model).train(training)(*args, **kwargs)
    except Exception as error:
        return one_line(error)
    return [tuple(output.shape) for _, output in named_tensors(result)]


def _wrong(model: nn.Module, small: nn.Module, arguments: Any) -> str:
    for training in (False, True):
        whole, own = _shapes(model, arguments, training), _shapes(small, arguments, training)
        if not isinstance(whole, str) and own != whole:
            mode = "training" if training else "evaluation"
            return f"{mode} mode: {own}" if isinstance(own, str) else f"{mode} mode: outputs have other shapes"
    return ""


# The peer


def _prune_with_peer(result: Pruning, model: nn.Module, arguments: Any) -> None:
    import torch_pruning

    args, kwargs = arguments
    network = copy.deepcopy(model)
    last, heads = _last_layers(network, arguments), _heads(network)
    start = time.process_time()
    try:
        pruner = torch_pruning.pruner.MagnitudePruner(
            network,
            kwargs if kwargs else tuple(args),
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=last,
            num_heads=heads,
        )
        pruner.step()
        _tell_head_sizes(network, heads)
    except Exception as error:
        result.peer_failure = one_line(error)
    result.peer_seconds = time.process_time() - start
    result.peer_failure = result.peer_failure or _wrong(model, network, arguments)
    if not result.peer_failure:
        result.peer = 1 - _size(network) / max(_size(model), 1)


def _last_layers(model: nn.Module, arguments: Any) -> list[nn.Module]:
    """The layers whose results are outputs of the network."""
    made: dict[int, nn.Module] = {}
    alive: list[Tensor] = []
    hooks = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[output.data_ptr()] = module
            alive.append(output)

    for module in model.modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(note))
    args, kwargs = arguments
    with torch.no_grad():
        result = model(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    return [made[t.data_ptr()] for _, t in named_tensors(result) if t.data_ptr() in made]


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """The layers that make queries, keys and values, with their number of heads."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        number = next(
            (
                getattr(module, name)
                for name in ("num_heads", "num_attention_heads", "n_heads")
                if isinstance(getattr(module, name, None), int)
            ),
            None,
        )
        for name in ("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin"):
            layer = getattr(module, name, None)
            if number and isinstance(layer, nn.Linear):
                found[layer] = number
    return found


def _tell_head_sizes(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Set what attention modules note down, as torch-pruning's examples do after pruning."""
    for module in model.modules():
        for name, parts in (("qkv", 3), ("query", 1), ("q_proj", 1), ("q_lin", 1)):
            layer = getattr(module, name, None)
            if isinstance(layer, nn.Linear) and layer in heads:
                size = layer.out_features // parts // heads[layer]
                for attribute, value in (
                    ("head_dim", size),
                    ("attention_head_size", size),
                    ("all_head_size", size * heads[layer]),
                    ("attn_dim", size * heads[layer]),
                    ("embed_dim", size * heads[layer]),
                ):
                    if isinstance(getattr(module, attribute, None), int):
                        setattr(module, attribute, value)


def rows(suite: str, results: Sequence[Pruning]) -> list[Row]:
    """The numbers of a suite."""
    own = [result for result in results if not result.skipped]
    right = [result for result in own if not result.failure]
    ratios = [result.kept_seconds / max(result.peer_seconds, 1e-3) for result in right if not result.peer_failure]
    at_least = [result.kept >= result.peer - _EQUAL for result in own]
    seconds = [result.seconds for result in right]
    found = [
        Row(f"{suite}_wrong", len(own) - len(right), n=len(own), aim=0, better="lower"),
        Row(f"{suite}_peer_not_running", sum(bool(r.peer_failure) for r in own), n=len(own), better="lower"),
    ]
    if not right:
        return found
    for name, values, aim, better in (
        ("share_removed_exact", [r.exact for r in right], None, "higher"),
        ("share_removed_kept", [r.kept for r in right], None, "higher"),
        ("share_removed_peer", [r.peer for r in right], None, "higher"),
        ("at_least_peer", [float(value) for value in at_least], 0.95, "higher"),
    ):
        row = Row.from_values(f"{suite}_{name}", values, aim=aim, better=better)  # type: ignore[arg-type]
        found.append(row)
    found.append(Row(f"{suite}_seconds_median", statistics.median(seconds), n=len(seconds), aim=2, better="lower"))
    found.append(Row(f"{suite}_seconds_max", max(seconds), n=len(seconds), aim=10, better="lower"))
    if ratios:
        found.append(Row(f"{suite}_time_ratio", statistics.median(ratios), n=len(ratios), aim=2, better="lower"))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    run_sweep("pruning", __doc__, compare, lambda name, reason: Pruning(name, reason), rows, arguments, Pruning)


if __name__ == "__main__":
    main()
