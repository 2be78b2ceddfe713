"""What goes wrong in hypernetworks without a message: weights of another size, dead heads, deaf conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

_FACTOR = 10.0  # Between generated and own scales, beyond which training rarely recovers.
_CONDITIONS = 8


@dataclass(frozen=True)
class HyperNetworkCheck:
    """Scales under generated parameters over those under the target's own, and what is wrong.

    Attributes:
        weights: Root mean square of generated values over that of the target's own, by parameter.
        activations: The same of each module's output, by module.
        gradients: The same of the gradient of the loss, by parameter.
        dead_heads: Parameters whose head gets no gradients.
        condition_effect: Greatest change of a generated parameter between conditions, over its own size.
        problems: What is wrong, in words; empty where nothing is.
    """

    weights: Mapping[str, float]
    activations: Mapping[str, float]
    gradients: Mapping[str, float]
    dead_heads: tuple[str, ...]
    condition_effect: float
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        """A line for each scale, then the problems."""
        lines = []
        for what in ("weights", "activations", "gradients"):
            ratios = getattr(self, what).values()
            if ratios:
                lines.append(f"{what}: {min(ratios):.3g} to {max(ratios):.3g} times the target's own")
        lines.append(f"change between conditions: {self.condition_effect:.3g} of a parameter's size")
        return "\n".join([*lines, *(self.problems or ("no problems",))])


def check_hypernetwork(
    hyper: Any,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any] | None = None,
    condition: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> HyperNetworkCheck:
    """Compare a hypernetwork with its target: scales of weights, activations and gradients, heads, and conditions.

    Args:
        hyper: The :class:`~hypergen.generators.hypernetwork.model.HyperNetwork`; gradients that it has are kept.
        inputs: Positional arguments of the target.
        keywords: Keyword arguments of the target.
        condition: A batch of conditions; by default some that are drawn.
        loss: From the target's output; by default its mean square.

    Returns:
        The ratios, and what is wrong in words.
    """
    target = hyper.attached()
    random = torch.Generator().manual_seed(0)
    encoded = hyper._encode(hyper.encoding.random(_CONDITIONS, random) if condition is None else condition)
    with torch.enable_grad():
        stacked = hyper._stacked(encoded)
        found = {name: value[0].detach().requires_grad_() for name, value in stacked.items()}
        own_parameters = dict(target.named_parameters())
        own = {name: own_parameters[name].detach().clone().requires_grad_() for name in hyper.names}
        same = {name: value.detach().clone() for name, value in hyper._same_for_all().items()}
        scales = [_measure(target, {**same, **each}, each, inputs, keywords or {}, loss) for each in (own, found)]
        heads = _dead_heads(hyper, stacked, scales[1][1])
    weights = {name: _over(_size(found[name]), _size(own[name])) for name in hyper.names}
    activations = {
        name: _over(value, scales[0][0][name]) for name, value in scales[1][0].items() if name in scales[0][0]
    }
    gradients = {
        name: _over(_size(value), _size(other))
        for name in hyper.names
        if (value := scales[1][1].get(name)) is not None and (other := scales[0][1].get(name)) is not None
    }
    effect = max(
        (float((value - value[:1]).detach().abs().max()) / max(_size(value), 1e-12) for value in stacked.values()),
        default=0.0,
    )
    return HyperNetworkCheck(
        weights,
        activations,
        gradients,
        heads,
        effect,
        _problems(hyper, weights, activations, gradients, heads, encoded.values, effect),
    )


def _problems(
    hyper: Any,
    weights: Mapping[str, float],
    activations: Mapping[str, float],
    gradients: Mapping[str, float],
    dead: Sequence[str],
    encoded: Tensor,
    effect: float,
) -> tuple[str, ...]:
    problems = []
    for what, ratios in (("generated", weights), ("activations of", activations), ("gradients of", gradients)):
        for name, ratio in ratios.items():
            if not 1 / _FACTOR <= ratio <= _FACTOR:
                problems.append(
                    f"{what} {name}: {ratio:.3g} times the scale of the target's own"
                    + (", all zeros" if ratio == 0 else "")
                )
    if dead:
        problems.append(f"heads without gradients: {', '.join(dead[:5])}: they will not be trained")
    readouts: list[Any] = [readout.weight for readout in hyper.heads.readouts]
    trained = any(bool(weight.any()) for weight in readouts)
    with torch.no_grad():
        states = hyper.trunk(encoded)
    if len(encoded) > 1 and float(states.std(0).max()) < 1e-5 * max(_size(states), 1e-12):
        problems.append("the condition changes nothing: states of different conditions are equal")
    elif trained and len(encoded) > 1 and effect < 1e-6:
        problems.append("the condition changes nothing: different conditions get the same parameters")
    return tuple(problems)


def _measure(
    target: nn.Module,
    everything: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    loss: Callable[[Any], Tensor] | None,
) -> tuple[dict[str, float], dict[str, Tensor | None]]:
    """Sizes of activations by module, and gradients by parameter."""
    sizes: dict[str, float] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: Any, output: Any) -> None:
            tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
            if tensors:
                sizes[name] = _size(tensors[0])

        return note

    handles = [module.register_forward_hook(hook(name)) for name, module in target.named_modules() if name]
    try:
        # Copies: batch norms write into their statistics.
        output = functional_call(
            target,
            {k: v if k in wanted else v.clone() for k, v in everything.items()},
            tuple(inputs),
            dict(keywords),
            tie_weights=True,
        )
    finally:
        for handle in handles:
            handle.remove()
    if loss is None:
        floats = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
        value = floats[0].float().square().mean()
    else:
        value = loss(output)
    gradients = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
    return sizes, dict(zip(wanted, gradients, strict=True))


def _dead_heads(hyper: Any, stacked: Mapping[str, Tensor], gradients: Mapping[str, Tensor | None]) -> tuple[str, ...]:
    """Parameters that are read, but whose head would not move."""
    readouts: list[Any] = [readout.weight for readout in hyper.heads.readouts]
    dead = []
    for name, value in stacked.items():
        gradient = gradients.get(name)
        if gradient is None:
            dead.append(name)
            continue
        # Random directions, because the gradient of one batch may be zero for good reasons.
        probe = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
        found = torch.autograd.grad((value * probe).sum(), readouts, allow_unused=True, retain_graph=True)
        if not any(each is not None and bool(each.any()) for each in found):
            dead.append(name)
    return tuple(dead)


def _size(value: Tensor) -> float:
    return float(value.detach().float().square().mean().sqrt()) if value.numel() else 0.0


def _over(value: float, other: float) -> float:
    """A ratio; 1 where both are zero, as for biases."""
    if other > 0:
        return value / other
    # Values beside zeros have no ratio; they are judged by what they do to activations.
    return 1.0
