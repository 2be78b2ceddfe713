"""Networks that look at values: meta tensors, then real integers and booleans, then real tensors."""

from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

from hypergen.errors import TraceError
from hypergen.graph import trace
from hypergen.graph.tracing.known_values import KnownValues, UnknownValueError


class Net(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        self.layer, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args):
        return self.function(self, *args)


def ops(graph):
    return [node.op for node in graph.nodes]


X = torch.randn(3, 5, 6)
LENGTHS = torch.tensor([5, 3, 2])


def test_plain_networks_need_shapes_only():
    graph = trace(Net(lambda self, x: self.layer(x).relu()), X)
    assert graph.tracing_mode == graph.without(["relu"]).tracing_mode == "meta"


def by_length(self, x, lengths):
    return torch.stack([self.layer(x[i, : int(n)]).mean(0) for i, n in enumerate(lengths)])


def by_list(self, x, lengths):
    return torch.cat([self.layer(part) for part in x[0].split(lengths.tolist()[1:])])


def by_numpy(self, x, lengths):
    return self.layer(x[:, : int(lengths.numpy().max())])


def by_branch(self, x, lengths):
    return self.layer(x) if (lengths > 1).all() and lengths.max() == 5 and lengths.dtype == torch.int64 else x


def by_mask(self, x, lengths):
    mask = torch.arange(5, device=x.device)[None] < lengths[:, None]
    return self.layer(x[mask])[: mask.sum()].sum(0)


def by_constants(self, x, lengths):
    steps = torch.linspace(0, 1, 5, device=x.device)
    steps[0] += 2
    half = (lengths / 2).ceil().long().max().item()
    return self.layer(x[:, :half]) * steps.view(-1)[0].item() * torch.tensor([0.5, 2.0]).max().item()


def by_buffer(self, x, lengths):
    self.seen += lengths.sum()
    return self.layer(x[:, : self.places[lengths[2]]]) if self.seen.item() > 4 else self.other(x)


def by_packing(self, x, lengths):
    packed = rnn.pack_padded_sequence(x, lengths, batch_first=True)
    return self.layer(rnn.pad_packed_sequence(packed, batch_first=True)[0])


FORWARDS = [by_length, by_list, by_numpy, by_branch, by_mask, by_constants, by_buffer, by_packing]


def build(forward):
    return Net(forward, seen=torch.zeros((), dtype=torch.int64), places=torch.arange(5) + 1)


@pytest.mark.parametrize("forward", FORWARDS)
def test_integers_and_booleans_have_values(forward, monkeypatch):
    model = build(forward)
    model.layer.to("meta"), model.other.to("meta")
    graph = trace(model, (X, LENGTHS))
    assert graph.tracing_mode == "known integers"
    assert not {"layer.weight", "layer.bias"} & set(graph.unused_parameters)
    # The same as with values for everything.
    monkeypatch.setattr(import_module("hypergen.graph.tracing.trace"), "KnownValues", None)
    reference = trace(build(forward), (X, LENGTHS))
    assert reference.tracing_mode == "real values"
    assert graph.nodes == reference.nodes
    assert torch.equal(graph.edges, reference.edges)


def test_shapes_that_integers_decide():
    graph = trace(build(by_mask).to("meta"), (X, LENGTHS))
    assert (10, 6) in [node.shape for node in graph.nodes if node.op == "linear"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_integers_of_the_model_and_its_user_stay_as_they_are(device):
    def forward(self, x, lengths):
        self.seen += 1
        self.plain += 1
        lengths += 1
        return self.layer(x[:, : int(lengths[2])]) if int(self.plain) else x

    model = build(forward)
    model.plain = torch.zeros((), dtype=torch.int64)
    model.layer.to(device)
    lengths = LENGTHS.clone()
    buffers = dict(model.named_buffers())
    assert trace(model, (X, lengths)).tracing_mode == "known integers"
    assert model.seen.item() == model.plain.item() == 0
    assert torch.equal(lengths, LENGTHS)
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


class MixtureOfExperts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2)
        result = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(chosen == number)
            if len(token):
                result.index_add_(0, token, expert(x[token]) * weights[token, place, None])
        return result


def test_routes_are_made_up_where_nobody_has_values():
    graph = trace(MixtureOfExperts().to("meta"), torch.zeros(20, 6))
    assert graph.tracing_mode == "known integers"
    assert graph.unused_parameters == ()
    again = trace(MixtureOfExperts().to("meta"), torch.zeros(20, 6))
    assert graph.nodes == again.nodes
    assert torch.equal(graph.edges, again.edges)


def test_values_are_not_made_up_where_there_are_real_ones():
    graph = trace(MixtureOfExperts(), torch.randn(20, 6))
    assert graph.tracing_mode == "real values"


def test_networks_that_are_too_large_for_real_values(monkeypatch):
    monkeypatch.setattr(import_module("hypergen.graph.tracing.trace"), "_MAX_REAL_BYTES", 100)
    assert trace(MixtureOfExperts(), torch.randn(20, 6)).tracing_mode == "known integers"
    with pytest.raises(TraceError, match="MB"):
        trace(Net(lambda self, x: self.layer(x) * x.max().item()), X)


def test_random_numbers_are_the_same_in_every_trace():
    def forward(self, x):
        return self.layer(x) if torch.rand(()).item() < 0.5 else self.other(x)

    torch.manual_seed(1)
    first = trace(Net(forward), X)
    torch.manual_seed(2)
    assert trace(Net(forward), X).nodes == first.nodes


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_known_floats_are_forgotten_when_unknown_ones_are_written_into_them():
    values, unknown = KnownValues(guess=False), meta(2)
    with values:
        known = torch.ones(4)
        view = known[1:]
        assert known.is_meta
        assert view.sum().item() == 3
        known *= 2
        assert view[0].item() == 2
        known[2:] = unknown
        for tensor in (known, view):
            with pytest.raises(RuntimeError):
                tensor.sum().item()
    with pytest.raises(UnknownValueError, match=r"\(4,\)"):
        values.value(known)


def test_unknown_values_do_not_pass_as_known_ones():
    unknown = meta(4)
    with KnownValues(guess=False):
        mask = torch.zeros(4, dtype=torch.bool)
        with pytest.raises(UnknownValueError, match="masked_fill_"):
            mask.masked_fill_(unknown > 0, True)
        with pytest.raises((RuntimeError, NotImplementedError)):
            (unknown > 0).nonzero()
        assert (unknown > 0).is_meta


def test_made_up_values_are_possible_ones():
    scores, one = meta(7), meta(1)
    with KnownValues(guess=True):
        assert sorted(scores.argsort().tolist()) == list(range(7))
        assert 0 <= scores.argmax().item() < 7
        assert not scores.isnan().any()
        with pytest.raises(RuntimeError):
            one.item()


def test_memory_that_nobody_has_written_is_zero():
    with KnownValues(guess=False):
        assert all(torch.empty(1000, dtype=dtype).sum().item() == 0 for dtype in (torch.int64, torch.float32))


def test_size_decides_what_stays_unknown():
    with KnownValues(guess=False):
        assert not torch.zeros(10, dtype=torch.int64).is_meta
        assert torch.zeros(2**30, dtype=torch.int64).is_meta
