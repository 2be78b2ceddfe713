"""Parameters of a network from a trained network of another size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.generators.donor.axes import WIDTHS, Width
from hypergen.generators.donor.layers import layers_of
from hypergen.generators.donor.mapper import Mapper, Side
from hypergen.generators.donor.matching import DEPTHS, Depth, match_layers
from hypergen.generators.donor.override import override_pairs
from hypergen.generators.donor.report import DonorMapping
from hypergen.generators.donor.verify import output_difference
from hypergen.graph import ComputationalGraph, trace


def map_parameters(
    target: nn.Module,
    donor: nn.Module,
    *,
    width: Width = "uniform",
    depth: Depth = "even",
    match: Mapping[str, str | None] | None = None,
    split: float = 0.25,
    seed: int = 0,
    example_inputs: Any = None,
    donor_inputs: Any = None,
    verify: bool = False,
) -> DonorMapping:
    """Take the parameters of ``target`` from ``donor``, a trained network of another width or depth.

    Layers are matched by operation, order and repetition (:func:`match_layers`), channels through the permutation
    groups of both networks, all axes of a group together. A narrower network gets a selection of the donor's channels
    (Xu et al., *Initializing Models with Larger Ones*, 2023, arXiv 2311.18823); a wider one gets copies, and what reads
    them is split between the copies (Chen et al., *Net2Net*, 2015, arXiv 1511.05641), which keeps the function where
    no norm averages over unequally copied channels. Kernels are cropped or padded about their centres, tables of
    positions are interpolated, input channels averaged.

    Args:
        target: The network that is initialised; only read.
        donor: The trained network; only read.
        width: Which channels a narrower network keeps: ``"uniform"`` or ``"leading"``.
        depth: Which block of the donor each block starts from; see :func:`match_layers`. ``"identity"`` keeps the
            function of a residual network: the last layers of added blocks are zero.
        match: Layers that are paired by name, over what was found: the target's → the donor's, or None for one that
            keeps its own values; ``*`` stands for any text, the same on both sides (:func:`override_pairs`).
        split: How unequally copies share outgoing weights: 0 is equally, and such copies never part in training.
        seed: Random seed of the split.
        example_inputs: What the target is called with, when it cannot be worked out.
        donor_inputs: What the donor is called with; None for the target's.
        verify: Run both networks in float64 and report how far their outputs are apart.

    Raises:
        UnknownNameError: No such ``width``, ``depth`` or name in ``match``.
        ParameterError: The networks have nothing in common, a match is ambiguous or of two kinds of layers, or
            the donor holds values that are not finite.
        TraceError: A network could not be run on example inputs.
    """
    if width not in WIDTHS:
        raise UnknownNameError("width", width, WIDTHS)
    if depth not in DEPTHS:
        raise UnknownNameError("depth", depth, DEPTHS)
    donor_inputs = example_inputs if donor_inputs is None else donor_inputs
    ours, theirs = trace(target, example_inputs), trace(donor, donor_inputs)
    pairs = match_layers(ours, theirs, depth)
    if match:
        pairs = override_pairs(pairs, layers_of(ours), layers_of(theirs), match)
    if not pairs:
        raise ParameterError(
            f"{type(donor).__name__} is no donor for {type(target).__name__}: no operation with parameters is common "
            f"to both. The target has {_operations(ours)}; the donor has {_operations(theirs)}."
        )
    mapper = Mapper(Side(target, ours), Side(donor, theirs), width, split, seed, double=verify)
    mapper.map(pairs)
    total = sum(math.prod(shape) for shape in ours.parameter_shapes.values())
    error = None
    if verify:
        error = output_difference(target, donor, {**mapper.parameters, **mapper.buffers}, example_inputs, donor_inputs)
    own = {**dict(target.named_parameters()), **dict(target.named_buffers())}
    parameters = {name: value.to(own[name].dtype) for name, value in mapper.parameters.items()}
    buffers = {name: value.to(own[name].dtype) for name, value in mapper.buffers.items()}
    return DonorMapping(parameters, buffers, tuple(mapper.sources.values()), total, error)


def _operations(graph: ComputationalGraph) -> str:
    counts = Counter(node.op for node in graph.nodes if node.parameters)
    return ", ".join(f"{number} {op}" for op, number in counts.most_common(4)) or "none"
