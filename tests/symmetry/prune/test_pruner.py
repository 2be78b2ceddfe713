import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypergen.architectures.families.conv_nets import ConvNet
from hypergen.architectures.families.mlp import MLP
from hypergen.architectures.families.token_nets import VisionTransformer
from hypergen.errors import ParameterError, UnknownNameError
from hypergen.graph import trace
from hypergen.symmetry.prune.allocate import allocate
from hypergen.symmetry.prune.importance import magnitude, most_important, random, taylor
from hypergen.symmetry.prune.pruner import Pruner, half_of, prune
from hypergen.symmetry.prune.trial import _InDouble
from hypergen.symmetry.units import unit_sums, units_of

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
IMAGE = torch.zeros(1, 1, 8, 8)


class Heads(nn.Module):
    """Attention whose sizes are attributes: heads can be removed, the channels within them cannot."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.inner = 4, 5, 20
        self.qkv, self.proj = nn.Linear(16, 60), nn.Linear(20, 16)

    def forward(self, x):
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        return x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.inner))


class Constant(nn.Module):
    """A network that writes the number of its hidden units into its forward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu().view(-1, 6)).relu())


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(9, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, tokens):
        return self.head(self.cell(self.table(tokens))[0])


def vgg():
    return nn.Sequential(
        *[nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()],
        *[nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        *[nn.Linear(12 * 16, 20), nn.ReLU(), nn.Linear(20, 10)],
    )


def conv_net(block, norm="batch", **options):
    return ConvNet(**SHAPE, block=block, widths=[8, 16], depths=[1, 1], norm=norm, **options)


def vit():
    return VisionTransformer(**SHAPE, width=12, depth=1, heads=3, patch_size=4)


NETWORKS = {
    "mlp": (lambda: MLP(**SHAPE, widths=[16, 12]), IMAGE),
    "vgg": (vgg, IMAGE),
    "resnet": (lambda: conv_net("basic", squeeze_excitation=True), IMAGE),
    "mobilenet": (lambda: conv_net("inverted_bottleneck"), IMAGE),
    "grouped": (lambda: conv_net("grouped", head="flatten"), IMAGE),
    "recurrent": (Recurrent, torch.zeros(2, 5, dtype=torch.int64)),
}


def randomised(build, seed=0):
    """A network with nothing at its default, so that an error must show."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double().eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "running" in name else torch.randn_like(tensor))
    return model


def random_inputs(like):
    if not like.is_floating_point():
        return torch.randint(0, 9, (3, *like.shape[1:]))
    return torch.randn(3, *like.shape[1:], dtype=torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_module_computes_what_the_network_with_zeroed_units_does(name):
    build, like = NETWORKS[name]
    model = randomised(build)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner = Pruner(model, like.double() if like.is_floating_point() else like)
    assert not pruner.left and len(pruner.groups) == len(pruner.symmetry.groups) > 1
    scores = random(pruner, torch.Generator().manual_seed(1))
    keep = most_important(scores, {group.name: max(1, group.size // 2) for group in pruner.groups})
    pruned = pruner.prune(keep)
    assert pruned.removed == {group.name: group.size - max(1, group.size // 2) for group in pruner.groups}
    inputs = random_inputs(like)
    zeroed = pruner.zeroed(dict(model.state_dict()), keep)
    expected = torch.func.functional_call(model, zeroed, (inputs,))
    torch.testing.assert_close(pruned.model(inputs), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(expected, model(inputs))  # the units were doing something
    assert sum(p.numel() for p in pruned.model.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    assert pruner.flops(keep) < 0.7 * pruner.flops()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_the_modules_of_a_pruned_network_say_their_new_sizes_and_train():
    model = vgg()
    pruner = Pruner(model, IMAGE)
    counts = {group.name: group.size // 2 for group in pruner.groups}
    small = pruner.prune(most_important(magnitude(pruner, dict(model.named_parameters())), counts)).model
    first, second, norm = small[0], small[3], small[4]
    # Half of the four groups, and in each half of the inputs; the three outputs of a group become one.
    assert (first.out_channels, second.in_channels, second.groups) == (2, 2, 2)
    assert second.out_channels == norm.num_features == len(norm.running_var) == 2
    assert (small[8].in_features, small[8].out_features, small[10].in_features) == (2 * 16, 10, 10)
    loss = small.train()(torch.randn(4, 1, 8, 8)).square().mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    again = Pruner(small.eval(), IMAGE)
    assert {group.size for group in again.groups} <= {2, 10}


def test_heads_are_removed_whole_and_attributes_follow():
    model = randomised(Heads)
    pruner = Pruner(model, torch.zeros(1, 6, 16, dtype=torch.float64))
    (heads,) = pruner.groups
    assert set(pruner.left) == {group.name for group in pruner.symmetry.groups} - {heads.name}
    small = pruner.prune({heads.name: torch.tensor([3, 1])}).model
    assert (small.num_heads, small.head_dim, small.inner) == (2, 5, 10)
    assert (small.qkv.out_features, small.proj.in_features) == (30, 10)
    inputs = torch.randn(2, 6, 16, dtype=torch.float64)
    zeroed = pruner.zeroed(dict(model.named_parameters()), {heads.name: torch.tensor([1, 3])})
    torch.testing.assert_close(small(inputs), torch.func.functional_call(model, zeroed, (inputs,)))


def test_what_cannot_be_pruned_is_left_and_reported():
    model = Constant()
    pruner = Pruner(model, torch.zeros(2, 4))
    first, second = "first.weight[0]", "second.weight[0]"
    assert [group.name for group in pruner.groups] == [second]
    assert "6" in pruner.left[first]
    pruned = prune(model, {first: torch.tensor([0, 1]), second: torch.tensor([5, 2])}, torch.zeros(2, 4))
    assert pruned.removed == {second: 6} and list(pruned.left) == [first]
    inputs = torch.randn(3, 4)
    assert pruned.model(inputs).shape == (3, 3) and pruned.model.first.out_features == 6
    torch.testing.assert_close(pruned.model.second.weight, model.second.weight[[2, 5]])


def test_norms_over_units_keep_them():
    stream = Pruner(vit(), IMAGE)
    assert [group.name for group in stream.groups] == ["blocks.0.feed_forward.fc1.weight[0]"]
    grouped = Pruner(conv_net("basic", norm="group"), IMAGE)
    sizes = {group.name: group.size for group in grouped.groups}
    assert sizes and not any(grouped.symmetry.axes["stem.1.weight"][0] is group for group in grouped.groups)
    small = grouped.prune(half_of(grouped.groups)).model  # whole groups of channels go
    assert small.stem[1].num_groups == 2 and small.stem[1].num_channels == 4


def test_a_mean_over_units_keeps_them():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 6)

        def forward(self, x):
            return self.layer(x).relu().mean(1)

    pruner = Pruner(Mean(), torch.zeros(2, 4))
    assert not pruner.groups and "at zero" in pruner.left["layer.weight[0]"]
    assert pruner.prune({"layer.weight[0]": torch.tensor([0])}).model.layer.out_features == 6


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, x):
            return self.encoder(x).relu() @ self.decoder.weight

    pruned = prune(Tied(), {"encoder.weight[0]": torch.tensor([0, 7, 3])}, torch.zeros(2, 6))
    assert pruned.model.decoder.weight is pruned.model.encoder.weight
    assert pruned.model.encoder.weight.shape == (3, 6) and pruned.model(torch.randn(2, 6)).shape == (2, 6)


@pytest.mark.parametrize(
    "places",
    [torch.tensor([0, 0]), torch.tensor([0, 16]), torch.tensor([-1]), torch.tensor([0.0]), torch.zeros(0).long()],
)
def test_bad_places_are_refused(places):
    with pytest.raises(ParameterError, match="layers.1"):
        prune(MLP(**SHAPE, widths=[16]), {"layers.1.weight[0]": places}, IMAGE)


def test_an_unknown_group_is_refused():
    with pytest.raises(UnknownNameError, match="layers.1"):
        prune(MLP(**SHAPE, widths=[16]), {"layers.1.weight": torch.tensor([0])}, IMAGE)


def test_magnitudes_are_norms_over_everything_that_belongs_to_a_unit():
    model = randomised(vgg).float()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    pruner = Pruner(model, IMAGE)
    hidden = magnitude(pruner, parameters)["8.weight[0]"]
    by_hand = parameters["8.weight"].square().sum(1) + parameters["8.bias"].square()
    by_hand = by_hand + parameters["10.weight"].square().sum(0)
    torch.testing.assert_close(hidden, by_hand.sqrt())
    # Channels before the flattening: their convolution, norm and 16 columns of the linear layer.
    within = unit_sums(pruner.symmetry, {"8.weight": parameters["8.weight"].square()})["3.weight[0]"]  # [4, 3]
    torch.testing.assert_close(within.flatten(), parameters["8.weight"].square().reshape(20, 12, 16).sum((0, 2)))
    batched = magnitude(pruner, {name: torch.stack([value, 2 * value]) for name, value in parameters.items()})
    torch.testing.assert_close(batched["8.weight[0]"], torch.stack([hidden, 2 * hidden]))


def test_units_of_a_group_with_parents_are_numbered_by_parent():
    symmetry = trace(vgg(), IMAGE).symmetry()
    shape, units = units_of(symmetry, "3.weight")  # [12, 2, 3, 3], of four groups
    numbers = {group.name: numbers.expand(shape).reshape(12, 2, 9)[:, :, 0] for group, numbers in units}
    assert numbers["0.weight[0].2"].tolist() == [[2 * (row // 3), 2 * (row // 3) + 1] for row in range(12)]
    assert numbers["3.weight[0]"][:, 0].tolist() == list(range(12))
    assert numbers["0.weight[0]"][:, 1].tolist() == [row // 3 for row in range(12)]


def test_taylor_scores_are_the_change_of_the_loss_to_first_order():
    model = randomised(lambda: MLP(**SHAPE, widths=[6], norm="none"))
    pruner = Pruner(model, IMAGE.double())
    inputs = random_inputs(IMAGE)
    model(inputs).square().mean().backward()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    gradients = {name: value.grad for name, value in model.named_parameters()}
    scores = taylor(pruner, parameters, gradients)["layers.1.weight[0]"]
    unit = 2
    step = 1e-7
    moved = pruner.zeroed(parameters, {"layers.1.weight[0]": torch.tensor([0, 1, 3, 4, 5])})
    nudged = {name: value + step * (moved[name] - value) for name, value in parameters.items()}
    change = torch.func.functional_call(model, nudged, (inputs,)).square().mean() - model(inputs).square().mean()
    torch.testing.assert_close(scores[unit], (change / step).abs().detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_budget_is_kept_and_nearly_used(allocation):
    model = ConvNet(**SHAPE, block="basic", widths=[24, 32], depths=[1, 1])
    pruner = Pruner(model, IMAGE)
    scores = magnitude(pruner, {name: value.detach() for name, value in model.named_parameters()})
    counts = allocate(pruner, scores, 0.3, allocation)
    keep = most_important(scores, counts)
    share = pruner.flops(keep) / pruner.flops()
    assert 0.2 < share <= 0.3
    assert pruner.prune(keep).removed == {name: len(scores[name]) - count for name, count in counts.items()}
    assert allocate(pruner, scores, 1.0, allocation) == {name: len(score) for name, score in scores.items()}


def test_impossible_budgets_are_refused():
    pruner = Pruner(MLP(**SHAPE, widths=[16]), IMAGE)
    for flops in (0.0, 1.5, 0.001):
        with pytest.raises(ParameterError, match="budget|share"):
            allocate(pruner, random(pruner), flops)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "bias"), [(1, 1, 1, True), ((2, 1), (0, 2), (1, 2), False), (3, 0, 2, True)]
)
def test_filters_of_single_channels_in_float64_are_those_of_torch(
    stride: int, padding: int, dilation: int, bias: bool
) -> None:
    layer = nn.Conv2d(5, 5, (3, 2), stride, padding, dilation, groups=5, bias=bias).double()
    source = torch.randn(2, 5, 11, 12, dtype=torch.float64)
    expected = layer(source)
    with _InDouble():
        assert (layer(source) - expected).abs().max() < 1e-12
