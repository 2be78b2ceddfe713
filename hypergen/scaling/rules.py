"""Scale rules from two traced sizes of a network.

µP: Yang et al., *Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer*, 2022, arXiv
2203.03466. Depth-µP: Yang et al., *Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks*, 2023, arXiv
2310.02244. CompleteP: Dey et al., *Don't be lazy: CompleteP enables compute-efficient deep transformers*, 2025, arXiv
2505.01618.

With m the width and L the depth over those of the base network, and α = ½ (depth-µP) or 1 (CompleteP)::

    kind              std at start   multiplier   AdamW lr               SGD lr
    fixed, vector     1              1            1                      m_out
    hidden            m_in^-½        1            1 / m_in               m_out / m_in
    readout           1              1 / m_in     1                      m_in
    in a branch                      L^-α (whole) × L^(α-1)              × L^(2α-1)

No layer is replaced: a multiplier a is folded into the stored values, which trains alike with the learning rate times a
for Adam, times a² for SGD. The readout's becomes a start smaller by 1 / m, the branch's one of its last layer, and that
of a head that is tied to an embedding one of the norm in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.graph import ComputationalGraph, trace
from hypergen.graph.operations import ATTENTIONS
from hypergen.graph.parameter_spec import NORMALIZATIONS, TABLES, AxisRole, ParameterSpec
from hypergen.scaling.architecture_aware import architecture_aware_scales
from hypergen.scaling.branches import residual_branches
from hypergen.scaling.report import Multiplier, ParameterScale, ScalingReport, rescale

Rule = Literal["standard", "mup", "depth_mup", "completep", "architecture"]
RULES: tuple[Rule, ...] = ("standard", "mup", "depth_mup", "completep", "architecture")
_EXPONENTS = {"mup": None, "depth_mup": 0.5, "completep": 1.0}


def scaling_rules(
    model: nn.Module,
    base: nn.Module,
    rule: Rule = "mup",
    *,
    delta: nn.Module | None = None,
    example_inputs: Any = None,
    base_inputs: Any = None,
) -> ScalingReport:
    """Work out a scale rule by comparing a network with a smaller one of the same constructor.

    Axes whose sizes differ between the networks are those that grow; their roles are read from the computational graph.
    All networks are only traced, and may be on the meta device.

    Args:
        model: The network to train.
        base: The network that learning rates are tuned on; its own initialisation is the rule's at its size.
        rule: ``"mup"``, ``"depth_mup"``, ``"completep"``, ``"architecture"`` (Chen et al., 2024) or ``"standard"``,
            which changes nothing.
        delta: A third size, which tells the axes that grow where ``model`` and ``base`` agree in one.
        example_inputs: What the network is called with, when it cannot be worked out.
        base_inputs: What the others are called with; None for the same.

    Raises:
        UnknownNameError: No such rule.
        ParameterError: A parameter has no counterpart in the base network.
        TraceError: A network could not be run on example inputs.
    """
    if rule not in RULES:
        raise UnknownNameError("scale rule", rule, RULES)
    base_inputs = example_inputs if base_inputs is None else base_inputs
    graph, smaller = trace(model, example_inputs), trace(base, base_inputs)
    third = smaller if delta is None else trace(delta, base_inputs)
    values = {name: value for name, value in base.named_parameters() if not value.is_meta}
    counterparts = {name: _counterpart(name, graph, smaller) for name in graph.parameter_shapes}
    stds = {
        name: float(values[own].detach().float().std()) if own in values and values[own].numel() > 1 else None
        for name, own in counterparts.items()
    }
    if rule in ("standard", "architecture"):
        scales = architecture_aware_scales(graph, smaller) if rule == "architecture" else {}
        found = {name: _plain(name, *scales.get(name, (1.0, None, 1.0))) for name in graph.parameter_shapes}
        return ScalingReport(rule, found, ())
    branches, fewer = residual_branches(graph), residual_branches(smaller)
    depth = branches.count / fewer.count if branches.count and fewer.count else 1.0
    exponent = _EXPONENTS[rule]
    grown = {}
    for name, own in counterparts.items():
        other = third.parameters[_counterpart(name, graph, third)]
        grown[name] = _growth(graph.parameters[name], smaller.parameters[own], other)
    folded, multipliers = _forward_multipliers(graph, smaller, grown)
    if exponent is not None and depth != 1:
        factor = depth**-exponent
        for name in branches.ends:
            folded[name] = folded.get(name, 1.0) * factor
        multipliers.append(Multiplier("on every residual branch", factor, tuple(sorted(branches.ends))))
    parameters = {}
    for name, (kind, fan_in, fan_out) in grown.items():
        hidden = kind == "hidden"
        multiplier = folded.get(name, 1.0)
        std = fan_in**-0.5 if hidden else 1.0
        adamw = 1 / fan_in if hidden else 1.0
        sgd = fan_out / fan_in if hidden else fan_in if kind == "readout" else fan_out
        decay = (1 / adamw, 1 / sgd)
        eps = 1.0
        if exponent is not None:
            inside = depth if name in branches.inside else 1.0
            adamw, sgd = adamw * inside ** (exponent - 1), sgd * inside ** (2 * exponent - 1)
            if rule == "completep":
                eps = 1 / (max(fan_in, fan_out) * inside**exponent)
        own_std = stds[name]
        parameters[name] = ParameterScale(
            name,
            kind,
            fan_in,
            fan_out,
            std,
            multiplier,
            None if own_std is None else own_std * std * multiplier,
            adamw * multiplier,
            sgd * multiplier**2,
            decay[0] / multiplier,
            decay[1] / multiplier**2,
            eps / multiplier,
        )
    return ScalingReport(rule, parameters, tuple(multipliers), depth)


def initialize_scaled(
    model: nn.Module, base: nn.Module, rule: Rule = "mup", *, example_inputs: Any = None
) -> ScalingReport:
    """Bring a network's own freshly drawn values to a rule's scales, in place; see :func:`scaling_rules`.

    Raises:
        ParameterError: A network is on the meta device, or a parameter has no counterpart in the base network.
    """
    for which, network in (("model", model), ("base", base)):
        missing = next((name for name, value in network.named_parameters() if value.is_meta), None)
        if missing is not None:
            raise ParameterError(f"The {which}'s {missing!r} is on the meta device; scales are taken from its values.")
    report = scaling_rules(model, base, rule, example_inputs=example_inputs)
    return replace(report, rescaled=rescale(model, report))


def _plain(name: str, multiplier: float, std: float | None, lr: float) -> ParameterScale:
    return ParameterScale(name, "fixed", 1.0, 1.0, 1.0, multiplier, std, lr, lr, 1.0, 1.0, 1.0)


def _counterpart(name: str, graph: ComputationalGraph, other: ComputationalGraph) -> str:
    """The parameter of another depth that plays the same role: of the same name, but for the numbers of blocks."""
    if name in other.parameter_shapes:
        return name
    skeleton = re.sub(r"\d+", "#", name)
    wanted = [int(number) for number in re.findall(r"\d+", name)]
    rank = len(graph.parameter_shapes[name])
    nearest: tuple[int, str] | None = None
    for candidate, shape in other.parameter_shapes.items():
        if len(shape) == rank and re.sub(r"\d+", "#", candidate) == skeleton:
            numbers = [int(number) for number in re.findall(r"\d+", candidate)]
            distance = sum(abs(a - b) for a, b in zip(wanted, numbers, strict=True))
            nearest = min(nearest or (distance, candidate), (distance, candidate))
    if nearest is None:
        raise ParameterError(
            f"{name!r} has no counterpart in the base network. Pass a base that the same constructor makes, with other "
            "widths or depths."
        )
    return nearest[1]


def _growth(spec: ParameterSpec, base: ParameterSpec, third: ParameterSpec) -> tuple[str, float, float]:
    """Kind of a parameter, and by how much its input and its other axes grow."""
    roles = spec.axes
    if len(spec.shape) > 1 and AxisRole.OTHER in roles and spec.operation in ("matmul", "mm", "bmm", "einsum", "mul"):
        # Laid out [..., in, out], as `x @ weight` reads it.
        roles = (*[AxisRole.OTHER] * (len(roles) - 2), AxisRole.INPUT, AxisRole.OUTPUT)
    fan_in, fan_out = 1.0, 1.0
    reads, writes = False, False
    for axis, role in enumerate(roles):
        factor = spec.shape[axis] / base.shape[axis]
        grows = factor != 1 or third.shape[axis] != base.shape[axis]
        if role is AxisRole.INPUT:
            fan_in, reads = fan_in * factor, reads or grows
        elif role is not AxisRole.KERNEL and (spec.operation not in TABLES or role is not AxisRole.ENTRY):
            fan_out, writes = fan_out * factor, writes or grows
    kind = {(False, False): "fixed", (False, True): "vector", (True, True): "hidden", (True, False): "readout"}
    return kind[reads, writes], fan_in, fan_out


def _forward_multipliers(
    graph: ComputationalGraph, base: ComputationalGraph, grown: Mapping[str, tuple[str, float, float]]
) -> tuple[dict[str, float], list[Multiplier]]:
    """Factors of readouts, of heads tied to embeddings, and of attention logits."""
    folded = {name: 1 / fan_in for name, (kind, fan_in, _) in grown.items() if kind == "readout" and fan_in != 1}
    found = [Multiplier(f"on what {name} reads", factor, (name,)) for name, factor in folded.items()]
    for number, node in enumerate(graph.nodes):
        for name in dict.fromkeys(node.shared.values()):
            kind, _, fan_out = grown[name]
            if kind != "vector" or fan_out == 1 or node.op not in ("linear", "addmm", "matmul", "mm"):
                continue
            before = [last for source in graph.incoming[number] for last in graph.layers_behind([source])]
            norm = graph.nodes[before[0]] if len(before) == 1 else None
            own: tuple[str, ...] = ()
            if norm is not None and norm.op in NORMALIZATIONS and len(graph.outgoing[before[0]]) == 1:
                own = tuple(norm.parameters.values())
                folded |= {each: folded.get(each, 1.0) / fan_out for each in own}
            found.append(Multiplier(f"on the logits of the head that is tied to {name}", 1 / fan_out, own))
    heads = [[node.shape[-1] for node in each.nodes if node.op in ATTENTIONS and node.shape] for each in (graph, base)]
    if heads[0] and heads[1] and heads[0][0] != heads[1][0]:
        found.append(Multiplier("on the attention logits", (heads[1][0] / heads[0][0]) ** 0.5))
    return folded, found
