"""What the graph decides: integers that are no widths, groups that go together, norms, and what leaves the process."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hypergen.errors import CheckpointError
from hypergen.symmetry import Pruned, Pruner
from hypergen.symmetry.prune.allocate import allocate
from hypergen.symmetry.prune.importance import geometric_median, lamp, magnitude, most_important
from hypergen.symmetry.prune.pruner import half_of


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.max_length, self.logit_scale = 16, nn.Parameter(torch.tensor(2.0))  # 16 is the hidden width, too
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        if x.shape[1] > self.max_length:
            raise ValueError(f"{x.shape[1]} tokens, at most {self.max_length}")
        return self.logit_scale * self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.inner, self.out = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.out(torch.relu(self.inner(self.norm(x)))))


def bert(attention="sdpa"):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=64, **sizes)
    config._attn_implementation = attention
    return transformers.BertForSequenceClassification(config).eval()


def test_an_integer_that_equals_a_width_by_chance_stays():
    pruner = Pruner(Reader(), torch.randn(2, 6, 4))
    small = pruner.prune(half_of(pruner.groups)).model
    assert small.max_length == 16 and small.b.out_features == 8
    assert small(torch.randn(2, 12, 4)).shape == (2, 12, 3)


@pytest.mark.parametrize("allocation", ["global", "uniform", "isomorphic"])
def test_channels_that_one_attribute_holds_go_together(allocation):
    model, tokens = bert(), {"input_ids": torch.randint(1, 64, (1, 9))}
    pruner = Pruner(model, tokens)
    assert max(map(len, pruner.together)) > 1
    scores = magnitude(pruner, dict(model.named_parameters()))
    keep = most_important(scores, allocate(pruner, scores, 0.6, allocation))
    done = pruner.prune(keep)
    assert not done.left and set(done.removed) == set(keep)
    expected = torch.func.functional_call(model, pruner.zeroed(dict(model.named_parameters()), keep), (), tokens)
    torch.testing.assert_close(done.model(**tokens).logits, expected.logits, rtol=1e-4, atol=1e-5)


def test_streams_under_norms_go_only_where_asked_for():
    assert [group.name for group in Pruner(Stream(), torch.randn(2, 5)).groups] == ["inner.weight[0]"]
    pruner = Pruner(Stream(), torch.randn(2, 5), norms="kept")
    done = pruner.prune(half_of(pruner.groups))
    assert done.model.norm.normalized_shape == (4,) and done.changed_norms
    assert done.model(torch.randn(2, 5)).shape == (2, 3)


def test_operations_are_counted_as_pytorch_counts_them():
    # PyTorch's counter has no formula for the fused attention of CPUs.
    model, tokens = bert("eager"), torch.randint(1, 64, (1, 9))
    pruner = Pruner(model, {"input_ids": tokens})
    keep = half_of(pruner.groups)
    for network, counted in ((model, pruner.flops()), (pruner.prune(keep).model, pruner.flops(keep))):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(tokens)
        assert counted == counter.get_total_flops()


def test_a_saved_network_computes_the_same_and_another_one_is_refused(tmp_path):
    pruner = Pruner(Stream(), torch.randn(2, 5), norms="kept")
    done = pruner.prune(half_of(pruner.groups))
    done.save(tmp_path)
    again, x = Pruned.load(tmp_path, Stream()), torch.randn(3, 5)
    torch.testing.assert_close(again.model(x), done.model(x), rtol=0, atol=0)
    assert again.removed == done.removed and again.model.norm.normalized_shape == (4,)
    with pytest.raises(CheckpointError, match="does not fit Reader"):
        Pruned.load(tmp_path, Reader())


def test_rounding_ignored_groups_and_shares():
    model = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 3))
    pruner = Pruner(model, torch.randn(2, 4))
    scores = lamp(pruner, dict(model.named_parameters()))
    counts = allocate(pruner, scores, parameters=0.6, round_to=8, shares={"2.*": 0.4})
    assert counts["2.weight[0]"] == 8 and counts["0.weight[0]"] in (8, 16, 20)
    assert "0.weight[0]" not in allocate(pruner, scores, 0.9, ignored=["0.*"])
    assert geometric_median(pruner, dict(model.named_parameters()))["0.weight[0]"].shape == (20,)
