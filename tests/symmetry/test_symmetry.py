"""Elements of the groups: that they leave the function as it is, that others do not, and how they compose."""

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch

from hypergen.errors import ParameterError, TraceError, UnknownNameError
from hypergen.graph import ComputationalGraph, trace
from hypergen.graph.computational_graph import edge_tensor
from hypergen.symmetry.verify import Verification

_SPEC = importlib.util.spec_from_file_location("symmetry_networks", Path(__file__).with_name("networks.py"))
networks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(networks)

# Heads that are averaged out, so that to permute them in one parameter alone changes nothing, either.
_SENSITIVE = [build for build in networks.NETWORKS if build is not networks.shared_within_heads]


def made(build):
    torch.manual_seed(0)
    net, inputs = build(), networks.NETWORKS[build]
    return trace(net, inputs).symmetry(), Verification(net, inputs)


@pytest.mark.parametrize("build", networks.NETWORKS, ids=lambda build: build.__name__)
def test_elements_leave_the_function_as_it_is(build):
    symmetry, verification = made(build)
    for _ in range(3):
        assert verification.error(symmetry, symmetry.sample(verification.generator)) < 1e-12


@pytest.mark.parametrize("build", _SENSITIVE, ids=lambda build: build.__name__)
def test_a_broken_group_changes_the_function(build):
    symmetry, verification = made(build)
    assert verification.least_change(symmetry, count=9) > 1e-6


def test_permuting_across_heads_changes_the_function():
    symmetry, verification = made(networks.packed_attention)
    permuted = dict(verification.tensors)
    across = torch.arange(12).roll(1)
    permuted["attention.in_proj_weight"] = permuted["attention.in_proj_weight"].clone()
    permuted["attention.in_proj_bias"] = permuted["attention.in_proj_bias"].clone()
    for start in (0, 12):  # queries and keys alike, which would be right within a head
        rows = slice(start, start + 12)
        permuted["attention.in_proj_weight"][rows] = permuted["attention.in_proj_weight"][rows][across]
        permuted["attention.in_proj_bias"][rows] = permuted["attention.in_proj_bias"][rows][across]
    assert verification.difference(verification.run(permuted)) > 1e-3


def test_running_statistics_follow_their_channels():
    symmetry, verification = made(networks.cnn)
    element = symmetry.sample(verification.generator)
    permuted = symmetry.apply(verification.tensors, element)
    permuted["1.running_mean"] = verification.tensors["1.running_mean"]
    assert verification.difference(verification.run(permuted)) > 1e-3


@pytest.mark.parametrize(
    "build", [networks.vit, networks.grouped, networks.grouped_queries, networks.lstm, networks.two_blocks_in_one],
    ids=lambda build: build.__name__,
)  # fmt: skip
def test_elements_form_a_group(build):
    symmetry, verification = made(build)
    tensors, generator = verification.tensors, verification.generator
    first, second = symmetry.sample(generator), symmetry.sample(generator)

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in tensors)

    one_by_one = symmetry.apply(symmetry.apply(tensors, first), second)
    assert same(symmetry.apply(tensors, symmetry.compose(first, second)), one_by_one)
    assert same(symmetry.apply(symmetry.apply(tensors, first), symmetry.inverse(first)), tensors)
    assert same(symmetry.apply(tensors, symmetry.identity()), tensors)
    assert not same(symmetry.apply(tensors, first), tensors)


def test_order_is_the_number_of_elements():
    symmetry, _ = made(networks.grouped)
    # 3 blocks; 2 channels in and 4 out, in another order in each block.
    assert symmetry.order_log() == pytest.approx(torch.tensor(6 * 2**3 * 24**3).log().item())


def test_applies_to_batches_and_gradients():
    symmetry, verification = made(networks.grouped)
    element = symmetry.sample(verification.generator)
    for name, tensor in verification.tensors.items():
        batch = torch.stack([tensor, 2 * tensor]).requires_grad_()
        single = symmetry.apply({name: tensor}, element)[name]
        permuted = symmetry.apply({name: batch}, element)[name]
        assert torch.equal(permuted, torch.stack([single, 2 * single]))
        permuted.sum().backward()
        assert torch.equal(batch.grad, torch.ones_like(batch))


def test_same_seed_same_element():
    symmetry, _ = made(networks.vit)
    one, other = (symmetry.sample(torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_survives_pickling():
    symmetry, verification = made(networks.vit)
    element = symmetry.sample(verification.generator)
    again = pickle.loads(pickle.dumps(symmetry))
    expected = symmetry.apply(verification.tensors, element)
    assert all(torch.equal(t, expected[n]) for n, t in again.apply(verification.tensors, element).items())
    graph = pickle.loads(pickle.dumps(trace(networks.vit(), networks.IMAGES)))
    assert graph.symmetry().table() == symmetry.table()


def test_simple_groups_are_whole_axes():
    symmetry, _ = made(networks.resnet)
    assert (("first.weight", 0), ("norm.weight", 0), ("norm.bias", 0), ("second.weight", 1)) == tuple(
        place for place in symmetry.simple_groups[1] if not place[0].startswith("norm.running")
    )
    assert len(symmetry.simple_groups) == 3
    # Heads and what is within them are no whole axes.
    assert len(made(networks.packed_attention)[0].simple_groups) == 2


def test_names_what_does_not_fit():
    symmetry, verification = made(networks.mlp)
    with pytest.raises(ParameterError, match="0.weight.*shape"):
        symmetry.apply({"0.weight": torch.zeros(5, 6)}, symmetry.identity())
    with pytest.raises(ParameterError, match="no permutation"):
        symmetry.apply(verification.tensors, {})
    graph = trace(networks.mlp(), networks.VECTORS)
    with pytest.raises(UnknownNameError, match="logits"):
        graph.symmetry(["logits"])
    with pytest.raises(TraceError, match="trace"):
        ComputationalGraph((), edge_tensor([]), {}).symmetry()


def test_says_why_an_axis_stays():
    symmetry, _ = made(networks.cnn)
    assert symmetry.frozen["0.weight"] == ("", "an input of the network", *["a place in a kernel"] * 2)
    assert symmetry.frozen["5.weight"] == ("an output of the network", "")
    assert "0.weight[0]: 4" in symmetry.table()
    assert "1 groups" in repr(symmetry)
