"""PyTorch's own layers, wrappers and parametrisations, and the ways in which people build and call networks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, rnn
from torch.utils.checkpoint import checkpoint

from benchmarks.trace_suites import Case

EXCLUDED: Mapping[str, str] = {
    "torch.jit.script, torch.jit.trace": "compiled TorchScript, whose operations Python cannot see",
    "FullyShardedDataParallel": "its parameters are flattened shards; trace the module before it is wrapped",
}


class Net(nn.Module):
    """A network of named parts and a function of them."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(self, *args, **kwargs)


def cases() -> Iterator[Case]:
    """Layers, then wrappers and reparametrisations, then ways to hold and share parameters, then ways to be called."""
    sequence, vectors, image = (partial(torch.randn, *shape) for shape in ((2, 5, 8), (2, 8), (1, 3, 16, 16)))
    for name, build, inputs in (*_layers(sequence, image), *_wrappers(vectors), *_holders(vectors)):
        yield Case(name, build, inputs)
    yield from _calls()


def _layers(sequence: Any, image: Any) -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[], Any]]]:
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        yield kind.__name__, partial(kind, 8, 6, 2), sequence
        yield f"{kind.__name__}-bidirectional", partial(kind, 8, 6, batch_first=True, bidirectional=True), sequence
    yield "LSTM-projected", partial(nn.LSTM, 8, 6, proj_size=4), sequence
    yield "LSTMCell", _unrolled, sequence
    yield "LSTM-packed", _packed, lambda: (torch.randn(3, 5, 8), torch.tensor([5, 3, 2]))
    attention = partial(nn.MultiheadAttention, 8, 2, batch_first=True)
    yield "MultiheadAttention", attention, lambda: (torch.randn(2, 5, 8),) * 3
    yield "MultiheadAttention-dims", partial(attention, kdim=6, vdim=4, add_bias_kv=True), _other_dims
    yield "MultiheadAttention-mask", attention, _masked
    encoder = partial(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True)
    yield "TransformerEncoder", lambda: nn.TransformerEncoder(encoder(), 2), sequence
    yield "TransformerEncoder-padding", lambda: nn.TransformerEncoder(encoder(), 2), _padded
    yield "Transformer", partial(nn.Transformer, 8, 2, 2, 2, 16), lambda: (torch.randn(4, 1, 8), torch.randn(3, 1, 8))
    yield "Embedding", lambda: nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9)), lambda: torch.tensor([[1, 2, 3]])
    yield "EmbeddingBag", partial(nn.EmbeddingBag, 9, 8), lambda: (torch.tensor([1, 2, 4]), torch.tensor([0, 2]))
    yield "Bilinear", partial(nn.Bilinear, 8, 6, 4), lambda: (torch.randn(2, 8), torch.randn(2, 6))
    yield "ConvTranspose2d", lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ConvTranspose2d(8, 3, 3, 2)), image
    yield "Conv3d", partial(nn.Conv3d, 3, 8, 3, groups=1), lambda: torch.randn(1, 3, 4, 8, 8)
    yield "norms", _norms, image
    yield "AdaptiveLogSoftmax", _adaptive, lambda: torch.randn(4, 8)


def _wrappers(vectors: Any) -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[], Any]]]:
    yield "torch.compile", lambda: torch.compile(_mlp()), vectors
    yield "torch.compile-inside", _compiled_inside, vectors
    yield "torch.compile-method", _compiled_method, vectors
    yield "DataParallel", lambda: nn.DataParallel(_mlp()), vectors
    yield "DistributedDataParallel", _distributed, vectors
    yield "compiled-DistributedDataParallel", lambda: torch.compile(_distributed()), vectors
    yield "AveragedModel", lambda: torch.optim.swa_utils.AveragedModel(_mlp()), vectors
    yield "weight_norm", lambda: _each(parametrizations.weight_norm), vectors
    yield "weight_norm-hook", lambda: _each(nn.utils.weight_norm), vectors
    yield "spectral_norm", lambda: _each(parametrizations.spectral_norm), vectors
    yield "spectral_norm-hook", lambda: _each(nn.utils.spectral_norm), vectors
    yield "orthogonal", _orthogonal, vectors
    yield "own-parametrization", lambda: _each(_symmetric), vectors
    yield "pruned", lambda: _each(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)), vectors
    yield "checkpointed", lambda: Net(_checkpointed, first=_mlp(), last=nn.Linear(8, 8)), vectors
    yield "autograd-function", lambda: Net(lambda self, x: _Twice.apply(self.layer(x)), layer=nn.Linear(8, 8)), vectors
    yield "functional-call", lambda: Net(_functional, layer=nn.Linear(8, 8)), vectors
    yield "vmap-ensemble", _ensemble, vectors


def _holders(vectors: Any) -> Iterator[tuple[str, Callable[[], nn.Module], Callable[[], Any]]]:
    affine = partial(Net, lambda self, x: x @ self.matrix + self.shift)
    yield "raw-parameters", lambda: affine(matrix=_parameter(8, 4), shift=_parameter(4)), vectors
    yield "ParameterList", _parameter_list, vectors
    yield "ParameterDict", _parameter_dict, vectors
    yield "buffers-only", _buffers_only, vectors
    yield "shared-module", _shared_module, vectors
    yield "tied-parameter", _tied, lambda: torch.tensor([[1, 2, 3]])
    yield "module-list-and-dict", _module_containers, vectors
    yield "module-in-a-plain-list", _hidden, vectors
    yield (
        "looks-at-values",
        lambda: Net(_looks_at_lengths, layer=nn.Linear(8, 8)),
        lambda: (
            torch.randn(2, 5, 8),
            torch.tensor([5, 3]),
        ),
    )
    yield "mixture-of-experts", MixtureOfExperts, partial(torch.randn, 12, 8)


def _calls() -> Iterator[Case]:
    x, y = partial(torch.randn, 2, 8), partial(torch.randn, 2, 8)
    both = partial(_two, lambda self, a, b: self.first(a) + self.second(b))
    yield Case("called-with-a-tuple", both, lambda: (x(), y()))
    yield Case("called-with-keywords", both, lambda: {"a": x(), "b": y()})
    taken = partial(_two, lambda self, batch: self.first(batch["a"]) + self.second(batch["b"]))
    yield Case("called-with-a-dict", taken, lambda: ({"a": x(), "b": y()},))
    listed = partial(_two, lambda self, parts: self.first(parts[0]) + self.second(parts[1]))
    yield Case("called-with-a-list", listed, lambda: ([x(), y()],))
    several = partial(_two, lambda self, a: {"a": self.first(a), "b": [self.second(a), a.shape]})
    yield Case("returns-a-dict", several, lambda: (x(),))


class MixtureOfExperts(nn.Module):
    """Two of four experts per token, each applied to the tokens that are routed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(_mlp() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens to tokens of the same size."""
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            if len(token):
                result.index_add_(0, token, expert(x[token]) * weights[token, place, None])
        return result


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class _Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def _mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def _two(function: Callable[..., Any]) -> nn.Module:
    return Net(function, first=nn.Linear(8, 4), second=nn.Linear(8, 4))


def _each(change: Callable[[nn.Module], Any]) -> nn.Module:
    model = _mlp()
    for layer in (model[0], model[2]):
        change(layer)
    return model


def _symmetric(layer: nn.Module) -> None:
    nn.utils.parametrize.register_parametrization(layer, "weight", _Symmetric())


def _orthogonal() -> nn.Module:
    with torch.device("cpu"):
        return _each(parametrizations.orthogonal)


def _unrolled() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        state = (x.new_zeros(2, 6), x.new_zeros(2, 6))
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0])

    return Net(forward, cell=nn.LSTMCell(8, 6), head=nn.Linear(6, 2))


def _packed() -> nn.Module:
    def forward(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
        packed, _ = self.rnn(rnn.pack_padded_sequence(x, lengths, batch_first=True))
        return self.head(rnn.pad_packed_sequence(packed, batch_first=True)[0])

    return Net(forward, rnn=nn.LSTM(8, 6, batch_first=True), head=nn.Linear(6, 2))


def _other_dims() -> tuple[Tensor, ...]:
    return torch.randn(2, 5, 8), torch.randn(2, 7, 6), torch.randn(2, 7, 4)


def _masked() -> dict[str, Tensor]:
    x = torch.randn(2, 5, 8)
    padding = torch.arange(5)[None] >= torch.tensor([[5], [3]])
    return {"query": x, "key": x, "value": x, "key_padding_mask": padding}


def _padded() -> dict[str, Tensor]:
    return {"src": torch.randn(2, 5, 8), "src_key_padding_mask": torch.arange(5)[None] >= torch.tensor([[5], [3]])}


def _norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8),
        nn.LayerNorm(14), nn.RMSNorm(14), nn.LocalResponseNorm(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(4),
    )  # fmt: skip


def _adaptive() -> nn.Module:
    return Net(lambda self, x: self.head.log_prob(x), head=nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]))


def _compiled_inside() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), torch.compile(_mlp()), nn.Linear(8, 2))


def _compiled_method() -> nn.Module:
    model = nn.Sequential(_mlp(), nn.Linear(8, 2))
    model.compile()
    return model


def _distributed() -> nn.Module:
    if not torch.distributed.is_initialized():
        store = os.path.join(tempfile.mkdtemp(), "store")
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    with torch.device("cpu"):
        return nn.parallel.DistributedDataParallel(_mlp())


def _checkpointed(self: Any, x: Tensor) -> Tensor:
    return self.last(checkpoint(self.first, x, use_reentrant=False))


def _functional(self: Any, x: Tensor) -> Tensor:
    doubled = {name: parameter * 2 for name, parameter in self.layer.named_parameters()}
    return torch.func.functional_call(self.layer, doubled, (x,))


def _ensemble() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda w, b: F.linear(x, w, b))(self.weight, self.bias).mean(0)

    return Net(forward, weight=_parameter(3, 4, 8), bias=_parameter(3, 4))


def _parameter_list() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = torch.tanh(x @ matrix)
        return x

    return Net(forward, matrices=nn.ParameterList(_parameter(8, 8) for _ in range(3)))


def _parameter_dict() -> nn.Module:
    parts = nn.ParameterDict({"scale": _parameter(8), "shift": _parameter(8)})
    return Net(lambda self, x: x * self.parts["scale"] + self.parts["shift"], parts=parts)


def _buffers_only() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(8, affine=False), nn.ReLU())


def _shared_module() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer)


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False))
    model[2].weight = model[0].weight
    return model


def _module_containers() -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.activations["relu"](layer(x))
        return x

    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    return Net(forward, layers=layers, activations=nn.ModuleDict({"relu": nn.ReLU()}))


def _hidden() -> nn.Module:
    """Has a layer that PyTorch does not see: its parameters are none of the network's."""
    return Net(lambda self, x: self.seen(self.unseen[0](x)), seen=nn.Linear(8, 8), unseen=[nn.Linear(8, 8)])


def _looks_at_lengths(self: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([self.layer(x[i, : int(length)]).mean(0) for i, length in enumerate(lengths)])
