"""A network of its own for each example of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hypergen.errors import ParameterError

Call = Callable[..., Any]


class LoopWarning(UserWarning):
    """Conditions are run one after the other, because `vmap` cannot follow the network."""


def refuse_batch_statistics(target: nn.Module) -> None:
    """Complain about batch norms that would average over networks with different parameters.

    Raises:
        ParameterError: A batch norm is in training mode and keeps running statistics.
    """
    names = [
        name
        for name, module in target.named_modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    if names:
        raise ParameterError(
            f"{type(target).__name__} has batch norms in training mode ({', '.join(names[:3])}), whose statistics are "
            "over a batch, while each example has parameters of its own. Normalise by the batch of each condition "
            "(`track_running_stats=False` and `shared_inputs=True`), take group norms, or freeze the statistics: call "
            "`.eval()` on the batch norms."
        )


def run_each(
    target: nn.Module,
    stacked: Mapping[str, Tensor],
    same: Mapping[str, Tensor],
    inputs: tuple[Sequence[Any], Mapping[str, Any]],
    *,
    shared_inputs: bool = False,
    loop: bool = False,
) -> Any:
    """Run a network under the parameters of each condition.

    Args:
        target: Network; its own parameters and buffers are not touched.
        stacked: Parameters that differ, ``[conditions, *shape]`` by name.
        same: Parameters and buffers that all conditions share.
        inputs: Positional and keyword arguments of the network.
        shared_inputs: Whether each condition's network sees the whole inputs; by default it sees one example of each
            tensor whose first axis is as long as the batch of conditions.
        loop: Run one after the other, without trying `vmap`.

    Returns:
        What the network returns for a batch, or, with shared inputs, ``[conditions, …]`` of each tensor. What is no
        tensor is replaced by None.

    Raises:
        ParameterError: No tensor has a first axis of the right length, or the network writes into its buffers.
    """
    number = len(next(iter(stacked.values())))
    leaves, spec = tree_flatten((tuple(inputs[0]), dict(inputs[1])))
    mapped = [not shared_inputs and isinstance(x, Tensor) and x.dim() > 0 and len(x) == number for x in leaves]
    if not shared_inputs and not any(mapped):
        shapes = [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        raise ParameterError(
            f"There are {number} conditions, and no input whose first axis is as long; inputs have shapes {shapes}. "
            "Pass a condition for each example, one condition for all, or shared_inputs=True to run every condition's "
            "network on all inputs."
        )
    found: list[Any] = []

    def call(own: dict[str, Tensor], *examples: Any) -> Any:
        each = [leaf[None] if is_mapped else leaf for leaf, is_mapped in zip(examples, mapped, strict=True)]
        arguments, keywords = tree_unflatten(each, spec)
        return functional_call(target, {**same, **own}, arguments, keywords, tie_weights=True)

    def run_one(own: dict[str, Tensor], *examples: Any) -> tuple[Tensor, ...]:
        values, structure = tree_flatten(call(own, *examples))
        found[:] = [structure, [isinstance(value, Tensor) for value in values]]
        return tuple(value for value in values if isinstance(value, Tensor))

    axes = (0, *(0 if is_mapped else None for is_mapped in mapped))
    if torch.compiler.is_compiling():
        compiled = vmap(call, axes, randomness="different")(dict(stacked), *leaves)
        return compiled if shared_inputs else tree_map(_joined, compiled)
    outputs: Sequence[Tensor]
    if not loop:
        try:
            with _quiet():
                outputs = vmap(run_one, axes, randomness="different")(dict(stacked), *leaves)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            outputs = _looped(run_one, stacked, same, leaves, mapped, number)
            # Only now: where the loop fails as well, its error says what is wrong with the inputs.
            warnings.warn(
                f"{type(target).__name__} runs its {number} conditions one after the other, because vmap cannot follow "
                f"it: {reason}",
                LoopWarning,
                stacklevel=4,
            )
    else:
        outputs = _looped(run_one, stacked, same, leaves, mapped, number)
    structure, is_tensor = found
    values = iter(output if shared_inputs else _joined(output) for output in outputs)
    return tree_unflatten([next(values) if tensor else None for tensor in is_tensor], structure)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep attention from its fused inference path, and warnings of operations that are looped over from the user.

    Attention would take that path in evaluation mode, because vmap hides that gradients are wanted. Operations without
    a rule for vmap are run one by one, which is still correct.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*performance drop.*")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _joined(output: Tensor) -> Tensor:
    """Turn ``[conditions, …, 1, …]``, one example each, into a batch: the first axis of length 1 holds the example."""
    shape = output.shape[1:]
    axis = next((axis for axis, size in enumerate(shape) if size == 1), None)
    return output if axis is None else output.squeeze(axis + 1).movedim(0, axis)


def _looped(
    run_one: Call,
    stacked: Mapping[str, Tensor],
    same: Mapping[str, Tensor],
    leaves: Sequence[Any],
    mapped: Sequence[bool],
    number: int,
) -> list[Tensor]:
    versions = {name: value._version for name, value in same.items()}
    outputs = []
    for index in range(number):
        examples = [leaf[index] if is_mapped else leaf for leaf, is_mapped in zip(leaves, mapped, strict=True)]
        outputs.append(run_one({name: value[index] for name, value in stacked.items()}, *examples))
        if written := [name for name, value in same.items() if value._version != versions[name]]:
            raise ParameterError(
                f"The network writes into its buffers {', '.join(written[:3])} when it runs, so that one condition "
                "would change what the next one finds. Put these modules into evaluation mode, or give one condition "
                "for the batch."
            )
    return [torch.stack(values) for values in zip(*outputs, strict=True)]
