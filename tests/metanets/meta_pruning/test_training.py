from functools import partial

import pytest
import torch

from hypergen.architectures import Architecture
from hypergen.data import DigitsDataModule
from hypergen.errors import ParameterError
from hypergen.functional.stacked_module import StackedModule
from hypergen.graph import trace
from hypergen.metanets.meta_pruning.model import PruningMetanetwork
from hypergen.metanets.meta_pruning.training import (
    MetaPruningTraining,
    PrunableNetworks,
    PruningBatches,
    pruning_loss,
    rewritten,
)
from hypergen.symmetry.prune.importance import magnitude, most_important
from hypergen.symmetry.prune.pruner import Pruner

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
IMAGE = torch.zeros(1, 1, 8, 8)
CNN = Architecture("cnn", {**SHAPE, "widths": [6], "depths": [1], "downsample": "max"})
MLP = Architecture("mlp", {**SHAPE, "widths": [12], "norm": "none"})


def networks_of(architecture: Architecture, count: int = 3, keep: int = 2) -> PrunableNetworks:
    module, model = StackedModule(architecture.build), architecture.build()
    pruner = Pruner(model, IMAGE)
    counts = {group.name: keep for group in pruner.groups}
    state = module.initialise(range(count))
    return PrunableNetworks(module, trace(model, IMAGE).parameter_graph(), pruner, counts, state)


@pytest.fixture(scope="module")
def digits():
    images, labels = DigitsDataModule().tensors("train")
    return images[:96], labels[:96]


def test_rewriting_commutes_with_permuting_units(digits):
    own = networks_of(CNN)
    torch.manual_seed(0)
    metanetwork = PruningMetanetwork(hidden=8, layers=2).double()
    images, labels = digits[0].double(), digits[1]
    state = {name: value.double() if value.is_floating_point() else value for name, value in own.state.items()}
    symmetry = own.graph.symmetry
    element = symmetry.sample(torch.Generator().manual_seed(1))
    expected = symmetry.apply(rewritten(metanetwork, own, state, images, labels), element)
    found = rewritten(metanetwork, own, symmetry.apply(state, element), images, labels)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(found["head.2.weight"], symmetry.apply(state, element)["head.2.weight"])
    statistics = [name for name in state if "running" in name or "batches" in name]
    assert statistics and all(torch.equal(expected[name], symmetry.apply(state, element)[name]) for name in statistics)


def test_the_loss_is_that_of_the_network_with_and_without_its_least_units(digits):
    own = networks_of(MLP, count=1, keep=4)
    before = magnitude(own.pruner, own.state)
    options = {"before": before, "sparsity_weight": 0.0}
    whole = pruning_loss(own, own.state, *digits, **options, pruned_weight=0.0)
    both = pruning_loss(own, own.state, *digits, **options)
    model = MLP.build()
    model.load_state_dict({name: value[0] for name, value in own.state.items()})
    cross_entropy = torch.nn.functional.cross_entropy
    torch.testing.assert_close(whole, cross_entropy(model(digits[0]), digits[1]))
    keep = most_important({name: value[0] for name, value in before.items()}, own.counts)
    small = Pruner(model, IMAGE).prune(keep).model
    torch.testing.assert_close(both - whole, cross_entropy(small(digits[0]), digits[1]))
    # All but four of twelve units, by their share of the squared norm.
    ((name, norms),) = before.items()
    least = norms[0].square().sort().values[:8].sum() / norms.square().sum()
    sparse = pruning_loss(own, own.state, *digits, before=before, sparsity_weight=2.0)
    torch.testing.assert_close(sparse - both, 2 * least)


def test_statistics_of_the_networks_do_not_change_by_reading_them(digits):
    own = networks_of(CNN)
    saved = {name: value.clone() for name, value in own.state.items()}
    rewritten(PruningMetanetwork(hidden=4, layers=1), own, own.state, *digits)
    assert all(torch.equal(value, saved[name]) for name, value in own.state.items())


def test_training_lowers_the_loss(digits):
    own = [networks_of(MLP, keep=4), networks_of(CNN)]
    torch.manual_seed(0)
    metanetwork = PruningMetanetwork(hidden=8, layers=1)
    training = MetaPruningTraining(metanetwork, own, *digits, steps=30, gradient_images=32, warmup_steps=1)
    training.log = lambda *_, **__: None  # there is no trainer
    optimizer = torch.optim.AdamW(metanetwork.parameters(), 1e-2)
    losses: dict[int, list[float]] = {0: [], 1: []}
    for number, batch in zip(range(30), PruningBatches(own, 96, 2, 64), strict=False):
        loss = training.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[batch[0]].append(loss.item())
    for curve in losses.values():
        assert sum(curve[-5:]) < 0.9 * sum(curve[:5])


def test_batches_take_architectures_in_turn():
    own = [networks_of(MLP, 5), networks_of(MLP, 2)]
    batches = [batch for _, batch in zip(range(20), PruningBatches(own, 7, 3, 4), strict=False)]
    assert [number for number, _, _ in batches] == [0, 1] * 10
    assert max(int(chosen.max()) for number, chosen, _ in batches if number == 1) == 1
    assert {tuple(chosen.shape) for _, chosen, _ in batches} == {(3,)} and batches[0][2].shape == (4,)
    with pytest.raises(ParameterError, match="at least one"):
        partial(PruningBatches, [])(7)
