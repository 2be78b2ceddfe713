"""Verify that metanetworks are equivariant on the networks whose tracing is benchmarked.

Each network is given random parameters in float64; a random element of its symmetry is applied before and after a
metanetwork that writes a number per weight, whose results must agree. Then one group at a time is broken: one
parameter is permuted and the others are not, which what a metanetwork reads must show. ``python -m
benchmarks.equivariance --suite all`` prints a line per failure, a table, and as its last line the figures as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.sweeps.network_sweep import built_and_traced, counted_outputs, one_line, run_sweep
from benchmarks.trace_suites import Case
from hypergen.evaluation.results import Results, Row
from hypergen.metanets import EquivariantMetanetwork, GraphMetanetwork, InvariantMetanetwork
from hypergen.symmetry.parameter_graph import ParameterGraph
from hypergen.symmetry.verify import shared_groups, torn

_MOST_PARAMETERS = 40_000_000
_MOST_EDGE_STATES = 1_000_000
_TOLERANCE = 1e-9
_TORN_GROUPS = 3


@dataclass
class Checked:
    """What came out of checking one network.

    Attributes:
        case: Name of the network.
        skipped: Why it was not checked, where metanetworks are not the reason.
        failure: What went wrong.
        error: The relative distance of what is written for a permuted network from what is written, permuted.
        read_error: The same of what is read, over the messages without and, for small networks, with edge states.
        torn: How many groups had their symmetry broken.
        least_change: The least relative change of what is read, by tearing a group apart; infinite where none was.
        weights: The number of parameters and running statistics.
        unsupported: Operations without a rule of symmetry.
    """

    case: str
    skipped: str = ""
    failure: str = ""
    error: float = 0.0
    read_error: float = 0.0
    torn: int = 0
    least_change: float = float("inf")
    weights: int = 0
    unsupported: tuple[str, ...] = ()


@torch.no_grad()
def check(case: Case) -> Checked:
    """Build, trace and check one network."""
    result = Checked(case.name)
    model, _, traced = built_and_traced(case, _MOST_PARAMETERS)
    try:
        graph = traced.parameter_graph(counted_outputs(traced))
        result.weights, result.unsupported = graph.num_edges, graph.unsupported
        if not graph.blocks:
            result.skipped = "no parameters"
            return result
        generator = torch.Generator().manual_seed(0)
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        tensors = {
            block.name: torch.randn(state[block.name].shape, generator=generator, dtype=torch.float64)
            for block in graph.blocks
        }
        for message in ("product", "edge") if graph.num_edges <= _MOST_EDGE_STATES else ("product",):
            _check_messages(message, graph, tensors, generator, result)
    except Exception as error:
        result.failure = one_line(error)
    if not result.failure and not max(result.error, result.read_error) <= _TOLERANCE:
        result.failure = f"off by {result.error:.1e} written, {result.read_error:.1e} read"
    if not result.failure and result.torn and not result.least_change > _TOLERANCE:
        result.failure = f"tearing a group apart changes {result.least_change:.1e}"
    return result


def _check_messages(
    message: str, graph: ParameterGraph, tensors: Mapping[str, Tensor], generator: torch.Generator, result: Checked
) -> None:
    torch.manual_seed(0)
    encoder = GraphMetanetwork(hidden=8, layers=2, message=message)  # type: ignore[arg-type]
    writer = EquivariantMetanetwork(encoder, decoder_hidden=4).double()
    reader = InvariantMetanetwork(encoder, outputs=4).double()
    symmetry = graph.symmetry
    element = symmetry.sample(generator)
    permuted = symmetry.apply(tensors, element)
    written = symmetry.apply(graph.to_params(writer(graph, tensors)), element)
    again = graph.to_params(writer(graph, permuted))
    gap = sum(float((written[name] - again[name]).square().sum()) for name in written) ** 0.5
    whole = sum(float(values.square().sum()) for values in written.values()) ** 0.5
    result.error = max(result.error, gap / whole)
    read = reader(graph, tensors)
    result.read_error = max(result.read_error, float((reader(graph, permuted) - read).norm() / read.norm()))
    groups = shared_groups(symmetry)
    for number in torch.randperm(len(groups), generator=generator)[:_TORN_GROUPS].tolist():
        after = reader(graph, torn(symmetry, groups[number], tensors))
        result.least_change = min(result.least_change, float((after - read).norm() / read.norm()))
        result.torn += 1


def rows_of(suite: str, networks: Sequence[Checked]) -> list[Row]:
    """The figures of a suite."""
    done = [network for network in networks if not network.skipped]
    right = [network for network in done if not network.failure]
    changes = [network.least_change for network in done if network.torn]
    shown = sum(change > _TOLERANCE for change in changes)
    worst = max((max(network.error, network.read_error) for network in done), default=float("nan"))
    return [
        Row(f"{suite}_networks", len(networks)),
        Row(f"{suite}_skipped", len(networks) - len(done), better="lower"),
        Row(f"{suite}_equivariant_share", len(right) / max(len(done), 1), n=len(done), aim=1.0),
        Row(f"{suite}_equivariance_error_max", worst, n=len(done), aim=_TOLERANCE, better="lower"),
        Row(f"{suite}_torn_groups", sum(network.torn for network in done), n=len(changes)),
        Row(f"{suite}_torn_groups_shown_share", shown / max(len(changes), 1), n=len(changes), aim=1.0),
        Row(f"{suite}_least_change_min", min(changes, default=float("nan")), n=len(changes)),
        Row(f"{suite}_with_unsupported", sum(bool(network.unsupported) for network in done), better="lower"),
    ]


def main(arguments: Sequence[str] | None = None) -> Results:
    """Check the networks, print a line per failure, the table and, last, its JSON."""
    return run_sweep("equivariance", __doc__, check, _skipped, rows_of, arguments)


def _skipped(name: str, reason: str) -> Checked:
    return Checked(name, skipped=reason)


if __name__ == "__main__":
    main()
