"""Whether a smaller network computes what the whole one does without its units, in float64 with random parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hypergen.graph.calls import Call, Value, named_tensors
from hypergen.graph.inputs import example_arguments
from hypergen.graph.operations import METADATA, operation_name
from hypergen.graph.tracing.flex_attention import flex_attention_anywhere
from hypergen.graph.tracing.inventory import take_inventory
from hypergen.graph.tracing.tensors import map_tensors, tensors_in
from hypergen.symmetry.prune.copies import copied

TOLERANCE = 1e-9  # of outputs, relative to the largest
_LOWER = (torch.float32, torch.float16, torch.bfloat16)
_MOVES = frozenset(("cpu", "cuda", "xpu", "mps", "set_data"))
_NOISE = 1_048_573  # a prime: rows of a tensor that repeats so many values all differ
_READS = frozenset(("item", "tolist", "numpy", "array", "equal", "allclose", "index"))

Places = Sequence["Tensor | None"]
Watch = Callable[[int, str, Callable[..., Any], Any, Any], Any]
"""Number of a call, its operation, the function, arguments and keywords → the result."""


class Trial:
    """A network with random parameters in float64, and how it is run.

    Nothing is at its default (zeros, ones): an error must show. What the network computes in a lower precision is
    computed in float64, too.

    Args:
        model: The network; its parameters may be on the meta device, its buffers may not. It is not changed.
        example_inputs: The same as for :func:`hypergen.trace`; what is floating-point becomes random.
        seed: Random seed of parameters and inputs.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None, seed: int = 0) -> None:
        self.tied = take_inventory(model).tied
        self.generator = torch.Generator().manual_seed(seed)
        self._values = torch.empty(_NOISE, dtype=torch.float64).uniform_(-1.7, 1.7, generator=self.generator)
        self.tensors: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            self.tensors[name] = self._random(parameter)
        for name, buffer in model.named_buffers(remove_duplicate=False):
            if name.endswith(("running_mean", "running_var")):
                self.tensors[name] = self._noise(buffer.shape).abs() + 0.5
            elif not buffer.is_meta:
                value = buffer.detach().cpu()
                self.tensors[name] = value.double() if value.is_floating_point() else value
        arguments = map_tensors(example_arguments(model, example_inputs), self._random_input)
        self.args, self.kwargs = arguments

    def _noise(self, shape: Sequence[int]) -> Tensor:
        """Random values; large tensors repeat them, each from a place of its own, as drawing them takes long."""
        count = math.prod(shape)
        if count <= _NOISE:
            return torch.empty(shape, dtype=torch.float64).uniform_(-1.7, 1.7, generator=self.generator)
        start = int(torch.randint(_NOISE, (), generator=self.generator))
        rolled = self._values.roll(-start)
        return torch.cat([rolled] * (count // _NOISE) + [rolled[: count % _NOISE]]).reshape(tuple(shape))

    def _random(self, parameter: Tensor) -> Tensor:
        if not parameter.is_floating_point():
            return parameter.detach().clone()
        noise = self._noise(parameter.shape)
        if parameter.dim() < 2:
            return noise.mul_(0.3).add_(0.7)
        return noise.div_(max(parameter[0].numel(), 1) ** 0.5)

    def _random_input(self, tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=self.generator, dtype=torch.float64)
        if tensor.is_meta or (tensor.dtype is torch.int64 and not tensor.any()):
            return torch.randint(0, 8, tensor.shape, generator=self.generator).to(tensor.dtype)
        return tensor.cpu()

    def run(self, tensors: Mapping[str, Tensor], model: nn.Module, watch: Watch | None = None) -> dict[str, Tensor]:
        """The floating-point outputs of a network with these parameters and buffers, in evaluation mode.

        Args:
            tensors: By name.
            model: The network; its own parameters are not read, and what it notes down does not stay in it.
            watch: Told of every operation.
        """
        own = {**tensors, **{alias: tensors[name] for alias, name in self.tied.items() if name in tensors}}
        network = copied(model, lambda tensor: tensor).eval()
        default, state = torch.get_default_dtype(), torch.get_rng_state()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)
        try:
            with torch.no_grad(), flex_attention_anywhere(), _InDouble(watch):
                result = torch.func.functional_call(network, own, self.args, self.kwargs, tie_weights=False)
        finally:
            torch.set_default_dtype(default)
            torch.set_rng_state(state)
        return {
            name: output for name, output in named_tensors(result) if output.is_floating_point() or output.is_complex()
        }


def difference(outputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of outputs, each relative to its largest value; infinity where shapes differ."""
    worst = 0.0
    for name, other in expected.items():
        one = outputs.get(name)
        if one is None or one.shape != other.shape:
            return float("inf")
        finite = other.isfinite()
        if not torch.equal(finite, one.isfinite()):
            return float("inf")
        if finite.any():
            change = (one - other)[finite].abs().max() / other[finite].abs().max().clamp_min(1e-30)
            worst = max(worst, float(change))
    return worst


class _InDouble(TorchFunctionMode):
    """Does in float64 what is asked for in a lower floating type, and tells of the calls that a recorder counts."""

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__()
        self.watch, self.count = watch, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = operation_name(func)
        if op in METADATA:
            return func(*args, **kwargs)
        args, kwargs = self._in_double(func, args, kwargs)
        if op in _MOVES:
            return func(*args, **kwargs)

        if op == "grouped_mm":
            func = _grouped_products
        elif op == "conv2d" and _is_depthwise(args, kwargs):
            func = _depthwise
        elif op in ("float", "half", "bfloat16") and isinstance(args[0], Tensor):
            func = Tensor.double
        result = self.watch(self.count, op, func, args, kwargs) if self.watch else func(*args, **kwargs)
        self.count += bool(op in _READS or op == "setitem" or tensors_in((result,)))
        return result

    @staticmethod
    def _in_double(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        name = getattr(func, "__name__", "")
        if any(arg in _LOWER for arg in args if isinstance(arg, torch.dtype)):
            args = tuple(torch.float64 if isinstance(arg, torch.dtype) and arg in _LOWER else arg for arg in args)
        if isinstance(kwargs.get("dtype"), torch.dtype) and kwargs["dtype"] in _LOWER:
            kwargs = {**kwargs, "dtype": torch.float64}
        given = tensors_in((args, kwargs))
        if any(t.dtype is torch.float64 for t in given) and any(
            t.dtype in _LOWER and not _written(name) for t in given
        ):
            args, kwargs = map_tensors(args, _raised), map_tensors(kwargs, _raised)
        return args, kwargs


def _written(name: str) -> bool:
    return name.endswith("_") or name in ("__setitem__", "__set__")


def _raised(tensor: Tensor) -> Tensor:
    return torch.Tensor.double(tensor) if tensor.dtype in _LOWER else tensor


def _grouped_products(input: Tensor, mat2: Tensor, offs: Tensor | None = None, **_: Any) -> Tensor:
    """Rows of each expert times its matrix: PyTorch's kernel has no float64."""
    if offs is None:
        return input @ mat2
    ends = [0, *offs.tolist()]
    rows = [input[start:end] @ mat2[number] for number, (start, end) in enumerate(zip(ends, ends[1:], strict=False))]
    return torch.cat([*rows, input.new_zeros(len(input) - ends[-1], mat2.shape[-1])])


def _is_depthwise(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether every channel has a filter of its own, for a batch of pictures; such a call has seven arguments."""
    if len(args) < 7 or kwargs or isinstance(args[5], str) or isinstance(args[4], str):
        return False
    source, weight = args[:2]
    return source.dim() == 4 and args[6] == source.shape[1] == weight.shape[0] > 1 and weight.shape[1] == 1


def _depthwise(
    source: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """The sum over a filter's places: PyTorch's kernel for float64 takes one channel after the other."""
    (down, right), (above, left), (high, wide) = (
        (value, value) if isinstance(value, int) else tuple(value) for value in (stride, padding, dilation)
    )
    padded = nn.functional.pad(source, (left, left, above, above))
    rows = (padded.shape[2] - high * (weight.shape[2] - 1) - 1) // down + 1
    columns = (padded.shape[3] - wide * (weight.shape[3] - 1) - 1) // right + 1
    total = source.new_zeros(*source.shape[:2], rows, columns)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            top, start = row * high, column * wide
            part = padded[
                :, :, top : top + down * (rows - 1) + 1 : down, start : start + right * (columns - 1) + 1 : right
            ]
            total.addcmul_(part, weight[:, 0, row, column, None, None])
    return total if bias is None else total + bias[:, None, None]


def kept_statistics(calls: Sequence[Call], at: Collection[int], places: Callable[[Value], Places | None]) -> Watch:
    """Lets the norms of a whole network average over the units that stay.

    Args:
        calls: The network's calls.
        at: Numbers of the calls to change.
        places: Tensor of the pass → for each axis the indices that stay, int64; None for all.
    """

    def watch(number: int, op: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if number not in at or calls[number].op != op:
            return func(*args, **kwargs)
        call = calls[number]

        def small(argument: Any, given: Any) -> Any:
            return _gathered(argument, places(given)) if isinstance(given, Value) else argument

        own = [small(argument, given) for argument, given in zip(args, call.args, strict=False)]
        named = {key: small(argument, call.kwargs.get(key)) for key, argument in kwargs.items()}
        if op in ("layer_norm", "rms_norm"):
            sizes = named["normalized_shape"] if "normalized_shape" in named else own[1]
            sizes = tuple(own[0].shape[-(len(sizes) if isinstance(sizes, (tuple, list)) else 1) :])
            if "normalized_shape" in named:
                named["normalized_shape"] = sizes
            else:
                own[1] = sizes
        result = func(*own, **named)
        if isinstance(result, Tensor):
            return _scattered(result, call.shapes[0], places(call.outputs[0]))
        shapes = zip(result, call.shapes, call.outputs, strict=True)
        return tuple(_scattered(one, shape, places(value)) for one, shape, value in shapes)

    return watch


def fingerprints(
    into: list[tuple[str, float]],
    places: Callable[[int], Places | None] | None = None,
    inner: Watch | None = None,
) -> Watch:
    """Notes a number for the first output of every call, of the units that stay where places are given."""

    def watch(number: int, op: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = inner(number, op, func, args, kwargs) if inner else func(*args, **kwargs)
        del into[number:]
        outputs = tensors_in((result,))
        value = float("nan")
        if outputs and outputs[0].is_floating_point():
            output = outputs[0]
            own = places(number) if places else None
            if own is None or len(own) == output.dim():
                value = float(_gathered(output, own).square().sum())
        into.append((op, value))
        return result

    return watch


def _gathered(tensor: Tensor, places: Places | None) -> Tensor:
    for dim, own in enumerate(places or ()):
        if own is not None:
            tensor = tensor.index_select(dim, own)
    return tensor


def _scattered(tensor: Tensor, shape: Sequence[int], places: Places | None) -> Tensor:
    for dim, own in enumerate(places or ()):
        if own is not None and tensor.shape[dim] != shape[dim]:
            whole = tensor.new_zeros(*tensor.shape[:dim], shape[dim], *tensor.shape[dim + 1 :])
            tensor = whole.index_copy(dim, own, tensor)
    return tensor
