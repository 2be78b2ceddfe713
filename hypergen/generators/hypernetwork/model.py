"""A network that writes parameters of one fixed target from a condition."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hypergen.errors import GeneratorError, ParameterError, UnknownNameError
from hypergen.functional import Parameters, expected_shapes
from hypergen.functional.arguments import check_numbers
from hypergen.functional.snapshot import unchanged_after_errors
from hypergen.generators.example import GeneratorExample, example_inputs, example_target
from hypergen.generators.generator import Generator
from hypergen.generators.hypernetwork.apply import BASES, combine, fields_of, offset_of, scale_of
from hypergen.generators.hypernetwork.check import HyperNetworkCheck, check_hypernetwork
from hypergen.generators.hypernetwork.encoding import ConditionEncoding, Encoded
from hypergen.generators.hypernetwork.heads import Heads
from hypergen.generators.hypernetwork.layout import (
    Layout,
    buffers_of,
    dtype_of,
    layout_of,
    refuse_other_target,
    select,
)
from hypergen.generators.hypernetwork.parts import HeldValues, make_trunk, not_functional
from hypergen.generators.hypernetwork.per_example import refuse_batch_statistics, run_each
from hypergen.generators.registry import register_generator
from hypergen.graph import ComputationalGraph


@register_generator
class HyperNetwork(Generator):
    """Writes all or some parameters of one fixed network from a condition, and is trained by that network's own loss.

    Hypernetworks as in Ha, Dai and Le, *HyperNetworks*, 2016 (arXiv:1609.09106), with the magnitude invariant
    parametrisation of Ortiz, Guttag and Dalca, *Magnitude Invariant Parametrizations Improve Hypernetwork Learning*,
    2023 (arXiv:2304.07645): the condition is encoded with a constant length, and what the heads give is added to
    independent values, ``θ(c) = θ₀ + s · heads(trunk(E(c)))``, with ``s`` the deviation of the target's own values.
    Unlike in the paper, the heads start at zero, so that the network starts at its own initialisation exactly.

    Call it as the target, with a condition more: ``hyper(inputs, condition=c)``. A batch of conditions gives each
    example of the inputs a network of its own. The target is never changed: values that are trained belong to the
    hypernetwork.

    Args:
        target: Network, with values; or its layout (:func:`~hypergen.generators.hypernetwork.layout.read_layout`), for
            a hypernetwork that generates parameters and cannot run the network until it is attached.
        condition: Number of continuous values in 0 … 1; ``{"continuous": 2, "low": 0, "high": 10}``,
            ``{"categories": 5, "dim": 16}`` or ``{"features": 384}``; or one of these for each name.
        parameters: Names, or shell-style patterns of names, of the parameters that are generated. The target's other
            parameters are trained beside them, where the base is ``"learned"``.
        apply: ``"full"`` and ``"delta"``: ``θ = base + change``; ``"multiply"``: ``base · (1 + factor)``, a factor for
            each output channel (HyperDomainNet, arXiv:2210.08884); ``"lora"``: ``base + α/r · B A``, for parameters
            with two axes or more.
        heads: How values come from the state; see :class:`~hypergen.generators.hypernetwork.heads.Heads`.
        encoding: How conditions are encoded; see
            :class:`~hypergen.generators.hypernetwork.encoding.ConditionEncoding`.
        base: ``"learned"``: copies of the target's values, trained; ``"fixed"``: copies, not trained; ``"target"``: the
            target's own values wherever they are read, never changed and not saved. By default ``"learned"`` for
            ``"full"``, and ``"target"`` otherwise.
        hidden: Size of each layer of the trunk.
        rank: Rank of low-rank changes.
        alpha: Low-rank changes are multiplied by ``alpha / rank``; by default by 1.
        chunk_size: Values of a chunk.
        init_scale: Size of the change that a condition makes before training, beside the deviation of the target's own
            values; 0 starts at the target's own values.

    Shapes:
        condition: ``[size]`` or ``[conditions, size]``; state: ``[conditions, hidden[-1]]``.

    Raises:
        UnknownNameError: A pattern matches no parameter, or an option does not exist; the message has the nearest.
        ParameterError: The target has no values, or none of its parameters can be generated.
        GeneratorError: The condition's specification cannot be read.
    """

    # Attributes that nn.Module.__getattr__ would leave unknown to type checkers.
    target: nn.Module | None
    layout: Layout
    scales: Tensor
    base: HeldValues
    own_buffers: HeldValues
    heads: Heads
    encoding: ConditionEncoding

    def __new__(cls, target: Any = None, *args: Any, **kwargs: Any) -> Self:
        """Record the target's layout in the place of the target, which JSON cannot hold."""
        if target is None:  # Copying and unpickling make an empty instance.
            return nn.Module.__new__(cls)
        return super().__new__(cls, layout_of(target), *args, **kwargs)

    def __init__(
        self,
        target: nn.Module | Mapping[str, Any],
        condition: int | Mapping[str, Any] = 1,
        parameters: str | Sequence[str] = "*",
        apply: str = "full",
        heads: str = "per_tensor",
        encoding: str = "cos_sin",
        base: str | None = None,
        hidden: Sequence[int] = (64, 64),
        rank: int = 8,
        alpha: float | None = None,
        chunk_size: int = 1024,
        init_scale: float = 0.0,
    ) -> None:
        super().__init__()
        layout_of(target)
        base = base or ("learned" if apply == "full" else "target")
        if base not in BASES:
            raise UnknownNameError("base", base, BASES)
        check_numbers(self, rank=rank, chunk_size=chunk_size, low=1, whole=True)
        check_numbers(self, alpha=alpha, init_scale=init_scale, low=0)
        for size in hidden:
            check_numbers(self, hidden=size, low=1, whole=True)
        if not hidden:
            raise GeneratorError("hidden=[] leaves the trunk without layers; give at least one size.")
        self.base_kind, self.lora_scale = base, 1.0 if alpha is None else alpha / rank
        # Beside nn.Module.__setattr__: the target is neither trained, saved nor listed as a part of the hypernetwork.
        self.__dict__["target"] = None
        self.layout: Layout = self.config["target"]
        layout = self.layout["parameters"]
        self.names = select(self.layout, parameters, matrices=apply == "lora", frozen=base != "learned")
        own = dict(target.named_parameters()) if isinstance(target, nn.Module) else {}

        self.encoding = ConditionEncoding(condition, encoding)
        self.trunk = make_trunk(self.encoding, hidden)
        self.fields = fields_of(apply, {name: layout[name][0] for name in self.names}, rank)
        self.heads = Heads(
            [field.shape for field in self.fields], hidden[-1], heads, chunk_size=chunk_size, init_scale=init_scale
        )
        scales = [scale_of(field, own.get(field.parameter)) for field in self.fields]
        self.register_buffer("scales", torch.tensor(scales))
        self.offsets = nn.ParameterDict()
        for number, field in enumerate(self.fields):
            if (offset := offset_of(field)) is not None:
                self.offsets[str(number)] = nn.Parameter(offset)

        # What the hypernetwork has copies of: with a learned base, of all that is trained.
        held = [name for name in layout if name in self.names or layout[name][2]] if base != "target" else []
        self.base = HeldValues(
            {
                name: own[name] if own else torch.zeros(layout[name][0], dtype=dtype_of(layout[name][1]))
                for name in held
            },
            trained=base == "learned",
        )
        self.own_buffers = HeldValues({}, trained=False)
        if isinstance(target, nn.Module):
            self.attach(target)
        else:
            for name, (shape, dtype) in self.layout["buffers"].items():
                self.own_buffers.put(name, torch.zeros(shape, dtype=dtype_of(dtype)), persistent=True)

    @classmethod
    def example(cls) -> GeneratorExample:
        """A small hypernetwork of two continuous values."""
        target = example_target()
        return GeneratorExample(cls(target, 2, hidden=[8]), target, [0.25, 0.75], example_inputs())

    def attach(self, target: nn.Module) -> Self:
        """Give a hypernetwork that was loaded the network that it runs.

        Args:
            target: Network of the layout that the hypernetwork was made for. It is not changed; its frozen parameters
                are read, and all of its parameters where the base is ``"target"``.

        Raises:
            ParameterError: It is another network.
        """
        refuse_other_target(self.layout, target)
        self.__dict__["target"] = target
        self.__dict__["_checked"] = False
        loaded = self.own_buffers.names()
        for name, value, persistent in buffers_of(target):
            if name not in loaded:
                self.own_buffers.put(name, value, persistent)
        return self

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        target: nn.Module | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Load a hypernetwork; with ``target``, attach the network that it runs."""
        loaded = super().from_pretrained(path_or_id, device=device)
        return loaded if target is None else loaded.attach(target)

    def forward(self, *inputs: Any, condition: Any, shared_inputs: bool = False, **keywords: Any) -> Any:
        """Run the target with the parameters of a condition.

        Args:
            *inputs: The target's.
            condition: One for the batch, or a batch of conditions with as many examples in the inputs.
            shared_inputs: Whether the network of each condition sees all inputs; outputs get an axis of conditions in
                front.
            **keywords: The target's.

        Returns:
            What the target returns.

        Raises:
            GeneratorError: The condition does not fit, or there is no target.
            ParameterError: The target writes into its own parameters, or cannot run a network for each example.
        """
        target = self.attached()
        encoded = self._encode(condition)
        same, stacked = self._same_for_all(), self._stacked(encoded)
        if encoded.batched or shared_inputs:
            refuse_batch_statistics(target)
            call = lambda: run_each(target, stacked, same, (inputs, keywords), shared_inputs=shared_inputs)  # noqa: E731
        else:
            stacked = {**same, **{name: value[0] for name, value in stacked.items()}}
            call = lambda: functional_call(target, stacked, inputs, keywords, tie_weights=True)  # noqa: E731
        if torch.compiler.is_compiling() or self.__dict__["_checked"]:
            return call()
        return self._first_call(target, {**same, **stacked}, call)

    def generate_stacked(self, condition: Any) -> Parameters:
        """Parameters for a batch of conditions, ``[conditions, *shape]`` by name; only those that are generated."""
        return self._stacked(self._encode(condition))

    def generate(self, target: Any = None, condition: Any = None, *, example_inputs: Any = None) -> Parameters:
        """Generate the parameters for one condition: ``hyper.generate(condition)``, or with the target before it.

        Args:
            target: Network of the hypernetwork's layout, or the condition; by default the attached network.
            condition: The condition.
            example_inputs: Not needed.

        Returns:
            A tensor for each trained or generated parameter, without those that stay frozen.

        Raises:
            GeneratorError: The condition does not fit or is a batch.
            ParameterError: The target is another network.
        """
        if not isinstance(target, (nn.Module, ComputationalGraph)):
            if target is not None and condition is not None:
                raise GeneratorError(f"Expected a network before the condition; got {type(target).__name__}.")
            condition = target if condition is None else condition
            if (attached := self.__dict__["target"]) is None:
                return self.predict(None, condition)
            target = attached
        return super().generate(target, condition, example_inputs=example_inputs)

    def predict(
        self, target: nn.Module | ComputationalGraph | None, condition: Any = None, *, example_inputs: Any = None
    ) -> Parameters:
        """Predict parameters under the names of ``target``, which may be wrapped in another module."""
        encoded = self._encode(condition)
        if encoded.batched and len(encoded.values) > 1:
            raise GeneratorError(
                f"Got {len(encoded.values)} conditions, and a network has parameters for one. Use `generate_stacked` "
                "for a batch."
            )
        given = dict(target.named_parameters()) if isinstance(target, nn.Module) else {}
        names = self._names_in(target)
        sources = {mine: given[name] for mine, name in names.items() if name in given}
        found = {name: value[0] for name, value in self._stacked(encoded, sources).items()}
        # What is trained beside the generated ones keeps the hypernetwork's value, or else its own.
        rest = {name: self.base.get(name) for name in self.base.names()} or {
            name: value.detach() for name, value in sources.items() if value.requires_grad and not value.is_meta
        }
        layout = self.layout["parameters"]
        every = {**rest, **found}
        return {names[name]: every[name] for name in layout if name in every}

    def check(
        self, *inputs: Any, condition: Any = None, loss: Callable[[Any], Tensor] | None = None, **keywords: Any
    ) -> HyperNetworkCheck:
        """Compare generated weights, activations and gradients with the target's own: see `check_hypernetwork`.

        Args:
            *inputs: The target's.
            condition: A batch of conditions; by default eight that are drawn.
            loss: From the target's output; by default its mean square.
            **keywords: The target's.
        """
        return check_hypernetwork(self, inputs, keywords, condition, loss)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the hypernetwork and of its target."""
        if (target := self.__dict__.get("target")) is not None:
            target.train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        target = self.__dict__.get("target")
        if target is not None and fn(torch.empty(0)).device.type != "meta":
            target._apply(fn)
        return super()._apply(fn, recurse)

    def attached(self) -> nn.Module:
        """The network that it runs.

        Raises:
            GeneratorError: There is none.
        """
        target = self.__dict__["target"]
        if target is None:
            raise GeneratorError(
                "The hypernetwork was loaded without the network that it runs. Call `hyper.attach(network)`, or load "
                "it with `HyperNetwork.from_pretrained(folder, target=network)`."
            )
        return target

    def _encode(self, condition: Any) -> Encoded:
        weight = self.scales
        return self.encoding(condition, weight.device, weight.dtype)  # type: ignore[no-any-return]

    def _field_values(self, encoded: Encoded) -> list[Tensor]:
        values = self.heads(self.trunk(encoded.values))
        scaled = [value * self.scales[number] for number, value in enumerate(values)]
        return [
            value + self.offsets[str(number)] if str(number) in self.offsets else value
            for number, value in enumerate(scaled)
        ]

    def _stacked(self, encoded: Encoded, sources: Mapping[str, Tensor] | None = None) -> Parameters:
        """Generated parameters, ``[conditions, *shape]``.

        Args:
            encoded: The conditions.
            sources: Values that are changed where the hypernetwork has none of its own; by default the target's.
        """
        if self.base_kind != "target":
            base = {name: self.base.get(name) for name in self.names}
        else:
            if sources is None:
                sources = dict(self.attached().named_parameters())
            if empty := [name for name in self.names if name not in sources or sources[name].is_meta]:
                raise ParameterError(
                    f'base="target" changes the target\'s own values, and {empty[0]!r} has none. Pass the network '
                    "with its values."
                )
            base = {name: sources[name].detach() for name in self.names}
        return combine(self.fields, self._field_values(encoded), base, self.lora_scale)

    def _same_for_all(self) -> dict[str, Tensor]:
        """Parameters and buffers that do not depend on the condition."""
        held = self.base.names()
        own = {name: value.detach() for name, value in self.attached().named_parameters() if name not in held}
        own |= {name: self.base.get(name) for name in held}
        own |= {name: self.own_buffers.get(name) for name in self.own_buffers.names()}
        return {name: value for name, value in own.items() if name not in self.names}

    def _names_in(self, target: Any) -> dict[str, str]:
        """The names in ``target`` of the hypernetwork's parameters: its own, or those in the same places."""
        mine = list(self.layout["parameters"])
        if not isinstance(target, (nn.Module, ComputationalGraph)):
            return dict(zip(mine, mine, strict=True))
        shapes = expected_shapes(target) if isinstance(target, nn.Module) else dict(target.parameter_shapes)
        expected = [self.layout["parameters"][name][0] for name in mine]
        if [list(shape) for shape in shapes.values()] != expected:
            if isinstance(target, nn.Module):
                refuse_other_target(self.layout, target)
            raise ParameterError("The target's parameters are not those that this hypernetwork was made for.")
        return dict(zip(mine, shapes, strict=True))

    def _first_call(self, target: nn.Module, given: Mapping[str, Tensor], call: Callable[[], Any]) -> Any:
        """Run the target, and see whether it writes into its own parameters.

        Args:
            target: The network.
            given: Parameters and buffers that it runs with.
            call: Runs it.
        """
        layout = self.layout["parameters"]
        # By value: writing through `.data` does not count as a change to PyTorch.
        before = {name: value.detach().clone() for name, value in given.items() if name in layout}
        with unchanged_after_errors(target):
            try:
                outputs = call()
            except RuntimeError as error:
                if "in-place operation" not in str(error) or "leaf Variable" not in str(error):
                    raise
                raise not_functional(target, []) from error
            if written := [name for name, value in before.items() if not torch.equal(value, given[name])]:
                with torch.no_grad():
                    for name in set(self.base.names()) & set(written) - set(self.names):
                        self.base.get(name).copy_(before[name])
                raise not_functional(target, written)
        self.__dict__["_checked"] = True
        return outputs
