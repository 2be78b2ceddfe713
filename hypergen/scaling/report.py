"""What a scale rule says of every parameter, and what an optimiser is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from hypergen.errors import ParameterError, UnknownNameError

if TYPE_CHECKING:
    from rich.table import Table

Optimizer = Literal["adamw", "sgd"]
OPTIMIZERS: tuple[Optimizer, ...] = ("adamw", "sgd")


@dataclass(frozen=True)
class ParameterScale:
    """The scale of one parameter; factors are relative to the base network.

    Attributes:
        name: Name, as in ``named_parameters()``.
        kind: ``"fixed"`` (no axis grows), ``"vector"`` (outputs or features alone grow), ``"hidden"`` (inputs and
            outputs grow) or ``"readout"`` (inputs alone grow).
        fan_in: Factor by which the input axes are larger than the base network's.
        fan_out: The same of the output or feature axes.
        std: Factor of the standard deviation at initialisation; ``multiplier`` is not in it.
        multiplier: Factor of the parameter in the forward pass, which is folded into its values: ``std``, learning
            rates, weight decay and epsilon below already hold for the values that the network stores.
        initial_std: Standard deviation to start with, ``multiplier`` included; None where the base network has no
            values.
        adamw_lr: Factor of the learning rate of AdamW.
        sgd_lr: Factor of the learning rate of SGD.
        adamw_weight_decay: Factor of the weight decay of AdamW.
        sgd_weight_decay: Factor of the weight decay of SGD.
        adamw_eps: Factor of the epsilon of AdamW.
    """

    name: str
    kind: str
    fan_in: float
    fan_out: float
    std: float
    multiplier: float
    initial_std: float | None
    adamw_lr: float
    sgd_lr: float
    adamw_weight_decay: float
    sgd_weight_decay: float
    adamw_eps: float


@dataclass(frozen=True)
class Multiplier:
    """A factor in the forward pass.

    Attributes:
        place: What is multiplied.
        value: The factor.
        folded: Parameters whose values hold the factor; empty where the network's own code has to apply it.
    """

    place: str
    value: float
    folded: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ScalingReport:
    """A scale rule, worked out for a network.

    Attributes:
        rule: Name of the rule.
        parameters: Name → scale, tied parameters once.
        multipliers: Factors in the forward pass.
        depth: Residual branches of the network over those of the base network.
        rescaled: Names of the parameters whose values were changed by ``initialize``.
    """

    rule: str
    parameters: Mapping[str, ParameterScale]
    multipliers: tuple[Multiplier, ...]
    depth: float = 1.0
    rescaled: tuple[str, ...] = ()

    def parameter_groups(
        self, model: nn.Module, lr: float, optimizer: Optimizer = "adamw", weight_decay: float = 0.0, eps: float = 1e-8
    ) -> list[dict[str, Any]]:
        """Parameter groups for ``torch.optim.AdamW`` (and Adam) or ``torch.optim.SGD``.

        Build them before the model is wrapped (DDP, FSDP), or from the wrapped module's original parameters: names are
        those of the model that the rule was worked out for.

        Args:
            model: The network.
            lr: Learning rate that was tuned on the base network.
            optimizer: ``"adamw"`` or ``"sgd"``.
            weight_decay: Weight decay of the base network.
            eps: Epsilon of the base network, for AdamW.

        Returns:
            A group for each combination of factors; parameters with ``requires_grad=False`` are left out.

        Raises:
            UnknownNameError: Another optimiser.
            ParameterError: The model has a parameter that the rule was not worked out for.
        """
        if optimizer not in OPTIMIZERS:
            raise UnknownNameError("optimizer", optimizer, OPTIMIZERS)
        groups: dict[tuple[float, ...], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if name not in self.parameters:
                raise ParameterError(
                    f"The scale rule knows no {name!r}: it was worked out for another network, or this one is wrapped. "
                    "Build the groups from the network itself."
                )
            if not parameter.requires_grad:
                continue
            own = self.parameters[name]
            adam = optimizer == "adamw"
            factors = (
                (own.adamw_lr, own.adamw_weight_decay, own.adamw_eps)
                if adam
                else (own.sgd_lr, own.sgd_weight_decay, 1.0)
            )
            if factors not in groups:
                groups[factors] = {"params": [], "lr": lr * factors[0], "weight_decay": weight_decay * factors[1]}
                groups[factors] |= {"eps": eps * factors[2]} if adam else {}
            groups[factors]["params"].append(parameter)
        return list(groups.values())

    def __str__(self) -> str:
        """The kinds of parameters and what the network's code has to apply, in a few lines."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(each.kind for each in self.parameters.values()).items())
        lines = [f"{self.rule}: {kinds}; depth ×{self.depth:g}; {len(self.rescaled)} parameters rescaled"]
        lines += [
            f"  × {each.value:g} {each.place}"
            + (f" (folded into {', '.join(each.folded)})" if each.folded else ": to be applied by the network's code")
            for each in self.multipliers
        ]
        return "\n".join(lines)

    def __rich__(self) -> Table:
        """A line per parameter."""
        from rich.table import Table

        table = Table(title=str(self), title_justify="left")
        for heading in ("parameter", "kind", "fan in", "fan out", "std", "multiplier", "AdamW lr", "SGD lr"):
            table.add_column(heading)
        for each in self.parameters.values():
            numbers = (each.fan_in, each.fan_out, each.std, each.multiplier, each.adamw_lr, each.sgd_lr)
            table.add_row(each.name, each.kind, *(f"{number:.4g}" for number in numbers))
        return table


def rescale(model: nn.Module, report: ScalingReport) -> tuple[str, ...]:
    """Bring a freshly initialised network's values to a rule's scales, in place.

    What the network drew is kept and multiplied. A scale that already agrees, as far as its number of values can tell,
    stays; values that are constant (gains, zero biases) only take the multiplier.

    Returns:
        Names of what was changed.
    """
    changed = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own = report.parameters[name]
            factor = own.multiplier
            if own.initial_std is not None and parameter.numel() > 1:
                drawn, wanted = float(parameter.float().std()), own.initial_std / own.multiplier
                base_values = parameter.numel() / (own.fan_in * own.fan_out)
                tolerance = 4 * (1 / (2 * parameter.numel()) + 1 / (2 * base_values)) ** 0.5
                if drawn > 0 and abs(wanted / drawn - 1) > tolerance:
                    factor *= wanted / drawn
            if factor != 1:
                parameter.mul_(factor)
                changed.append(name)
    return tuple(changed)
