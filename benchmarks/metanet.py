"""Time metanetworks: one layer on large networks, and dense blocks beside a list of edges.

``python -m benchmarks.metanet`` prints a table, and as its last line the same figures as JSON. Beside a layer of matrix
products stands its floor, two matrix products per weight matrix and nothing else; beside dense blocks the same messages
over a list of edges, as each edge multiplies the features of its own nodes (like ``torch_geometric.nn.MetaLayer``), and
as they are multiplied before they are copied to edges.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn

import hypergen
from benchmarks.memory import peak, start_peak
from benchmarks.sweeps.edge_list import EdgeList
from benchmarks.sweeps.fresh_process import in_fresh_process
from benchmarks.sweeps.network_sweep import counted_outputs
from benchmarks.sweeps.networks import NETWORKS
from hypergen.evaluation.results import Results, Row
from hypergen.metanets import EquivariantMetanetwork, GraphMetanetwork
from hypergen.metanets.layers.incidences import incidences_of
from hypergen.symmetry.parameter_graph import ParameterGraph

LARGE = {"resnet50": 1.5, "gpt2_small": 2.0}  # the most seconds that a layer should take
_MOST_GIGABYTES = 1.0
_LAYERS = 2


def convolutional() -> tuple[nn.Module, Tensor]:
    """77,602 edges: convolutions, one of them grouped, a batch norm, and a linear layer on a flattened image."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.Conv2d(64, 64, 3, groups=8), nn.Flatten(), nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 10),
    )  # fmt: skip
    return network, torch.zeros(1, 3, 8, 8)


def perceptron() -> tuple[nn.Module, Tensor]:
    """85,002 edges."""
    network = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )  # fmt: skip
    return network, torch.zeros(1, 64)


SMALL = (convolutional, perceptron)


def main(arguments: Sequence[str] | None = None) -> Results:
    """Run the benchmark, print its table and, last, its JSON."""
    options = _parser().parse_args(arguments)
    rows: list[Row] = []
    for name in LARGE:
        rows += in_fresh_process(large_rows, name, options.hidden, options.repeats)
    for build in SMALL:
        rows += in_fresh_process(dense_rows, build, options.hidden, options.repeats)
    details = {**vars(options), "threads": torch.get_num_threads(), "load_average": os.getloadavg()[0]}
    results = Results("benchmarks.metanet", 0, tuple(rows), details)
    results.print_table(Console(width=max(Console().width, 110)))
    print(results.to_json())
    return results


@torch.no_grad()
def large_rows(name: str, hidden: int, repeats: int) -> list[Row]:
    """A bidirectional layer without edge states on one large network, its memory, and what surrounds it."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    begun = time.perf_counter()
    traced = hypergen.trace(network)
    graph = traced.parameter_graph(counted_outputs(traced))
    built = time.perf_counter() - begun
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    tensors = {block.name: state[block.name].detach() for block in graph.blocks}
    encoder = GraphMetanetwork(hidden=hidden, layers=1, message="product", statistics=False)
    writer = EquivariantMetanetwork(encoder, decoder_hidden=4)
    data = tuple(values.unsqueeze(0) for values in graph.to_data(tensors))
    incidences = incidences_of(graph)
    before = start_peak()
    blocks, sizes = encoder.embedding.of_blocks(incidences, data)
    nodes = encoder.embedding.of_nodes(incidences, data[0])[None]
    encoder.layers[0](incidences, nodes, data, sizes, blocks)
    gigabytes = (peak() - before) / 1e9
    seconds, floor = _alternating(
        [
            lambda: encoder.layers[0](incidences, nodes, data, sizes, blocks),
            lambda: _products(data, hidden),
        ],
        repeats,
    )
    (written,) = _alternating([lambda: writer(graph, tensors)], 3)
    over = [one / other for one, other in zip(seconds, floor, strict=True)]
    return [
        Row.from_values(f"{name}_layer_seconds", seconds, aim=LARGE[name], better="lower", statistic="median"),
        Row(f"{name}_layer_gigabytes_over_weights", gigabytes, aim=_MOST_GIGABYTES, better="lower"),
        Row.from_values(f"{name}_products_alone_seconds", floor, better="lower", statistic="median"),
        Row.from_values(f"{name}_layer_over_products_alone", over, better="lower", statistic="median"),
        Row(f"{name}_trace_and_parameter_graph_seconds", built, better="lower"),
        Row.from_values(f"{name}_read_and_write_every_weight_seconds", written, better="lower", statistic="median"),
    ]


def _products(data: Sequence[Tensor], hidden: int) -> None:
    """Two products per weight matrix, forward and backward along it."""
    for values in data:
        matrix = values[0, ..., 0].flatten(1) if values.dim() > 3 else None
        if matrix is not None:
            torch.mm(matrix, matrix.new_ones(matrix.shape[1], hidden))
            torch.mm(matrix.t(), matrix.new_ones(matrix.shape[0], hidden))


def dense_rows(build: Callable[[], tuple[nn.Module, Tensor]], hidden: int, repeats: int) -> list[Row]:
    """Rounds of messages forward and backward, in dense blocks and over lists of edges."""
    torch.manual_seed(0)
    network, inputs = build()
    graph = hypergen.trace(network, inputs).parameter_graph()
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    runs = _message_passing(graph, {block.name: state[block.name].detach() for block in graph.blocks}, hidden)
    outcomes = [run() for run in runs]
    worst = max(
        float((one - other).norm() / one.norm())
        for outcome in outcomes[1:]
        for one, other in zip(outcomes[0], outcome, strict=True)
    )
    dense, listed, first = _alternating(runs, repeats)
    name = build.__name__
    over = [one / other for one, other in zip(listed, dense, strict=True)]
    first_over = [one / other for one, other in zip(first, dense, strict=True)]
    return [
        Row.from_values(f"{name}_edge_list_over_dense", over, aim=5.0, better="higher", statistic="median"),
        Row(f"{name}_edge_list_difference", worst, n=graph.num_edges, aim=1e-6, better="lower"),
        Row.from_values(f"{name}_edge_list_nodes_first_over_dense", first_over, better="higher", statistic="median"),
        Row.from_values(f"{name}_dense_seconds", dense, better="lower", statistic="median"),
    ]


def _message_passing(
    graph: ParameterGraph, tensors: dict[str, Tensor], hidden: int
) -> list[Callable[[], tuple[Tensor, ...]]]:
    """Forward and backward in each form; each returns nodes, and the gradients of a layer's weights."""
    encoder = GraphMetanetwork(hidden=hidden, layers=_LAYERS)
    start = GraphMetanetwork(hidden=hidden, layers=0)
    with torch.no_grad():
        states = start(graph, tensors)
    incidences, listed = incidences_of(graph), EdgeList(graph)
    flat = EdgeList.flatten(states.edges or ())

    def backward(nodes: Tensor, loss: Tensor) -> tuple[Tensor, ...]:
        encoder.zero_grad()
        loss.backward()
        weights = [parameter.grad for parameter in encoder.layers[0].parameters() if parameter.grad is not None]
        return (nodes.detach(), *(gradient.clone() for gradient in weights))

    def dense() -> tuple[Tensor, ...]:
        nodes, edges = states.nodes, list(states.edges or ())
        for layer in encoder.layers:
            nodes, edges = layer(incidences, nodes, edges)
        return backward(nodes, nodes.square().mean() + sum(edge.square().mean() for edge in edges) / len(edges))

    def over_list(nodes_first: bool) -> tuple[Tensor, ...]:
        nodes, edges = states.nodes, flat
        for layer in encoder.layers:
            nodes, edges = listed.layer(layer, nodes, edges, nodes_first)
        parts = edges.split([own[..., 0].numel() for own in states.edges or ()], 1)
        return backward(nodes, nodes.square().mean() + sum(part.square().mean() for part in parts) / len(parts))

    return [dense, lambda: over_list(False), lambda: over_list(True)]


def _alternating(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each, taking turns, after a round that is not counted."""
    for run in runs:
        run()
    rounds = [[_seconds(run) for run in runs] for _ in range(repeats)]
    return [list(own) for own in zip(*rounds, strict=True)]


def _seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.metanet", description=__doc__)
    parser.add_argument("--hidden", type=int, default=64, help="channels")
    parser.add_argument("--repeats", type=int, default=7, help="of every timing")
    return parser


if __name__ == "__main__":
    main()
