import pytest
import torch

from hypergen.errors import ParameterError
from hypergen.generators.tokens.unit_tokens import UnitTokens, apply_orders, permute_units
from hypergen.graph import trace

SHAPES = {"a": (5, 3), "b": (5,), "c": (4, 5), "d": (4,), "e": (2, 4), "f": (2,)}
GROUPS = [[("a", 0), ("b", 0), ("c", 1)], [("c", 0), ("d", 0), ("e", 1)]]


def networks(count=3):
    return {name: torch.randn(count, *shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("groups", [GROUPS, GROUPS[::-1], GROUPS[:1], []])
def test_tokens_give_the_networks_back_bit_by_bit(groups):
    tokens = UnitTokens(SHAPES, groups)
    stacked = networks()
    blocks = tokens.encode(stacked)
    assert [tuple(block.shape[1:]) for block in blocks] == list(tokens.sizes)
    back = tokens.decode(blocks)
    assert list(back) == list(SHAPES)
    for name, value in stacked.items():
        assert torch.equal(back[name], value)


def test_a_token_holds_what_goes_into_a_unit_and_out_of_it():
    stacked = networks()
    first = UnitTokens(SHAPES, GROUPS).encode(stacked)[0]
    assert first.shape == (3, 5, 3 + 1 + 4)
    expected = torch.cat([stacked["a"][:, 2], stacked["b"][:, 2:3], stacked["c"][:, :, 2]], 1)
    assert torch.equal(first[:, 2], expected)


def test_permuting_units_permutes_tokens():
    stacked = networks()
    moved, orders = permute_units(stacked, GROUPS[:1], torch.Generator().manual_seed(0))
    tokens = UnitTokens(SHAPES, GROUPS[:1])
    (before, *rest), (after, *others) = tokens.encode(stacked), tokens.encode(moved)
    assert torch.equal(after, before[torch.arange(3)[:, None], orders[0]])
    assert all(torch.equal(one, other) for one, other in zip(rest, others, strict=True))


def test_permuting_units_keeps_the_function_and_is_undone():
    from torch import nn
    from torch.func import functional_call

    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(7, 3)
    groups = trace(model, x).symmetry().simple_groups
    stacked = {name: value.detach()[None] for name, value in model.named_parameters()}
    moved, orders = permute_units(stacked, groups, torch.Generator().manual_seed(0))
    assert not torch.equal(moved["0.weight"], stacked["0.weight"])
    torch.testing.assert_close(functional_call(model, {key: value[0] for key, value in moved.items()}, x), model(x))
    undone = apply_orders(moved, groups, [order.argsort(1) for order in orders])
    for name, value in stacked.items():
        assert torch.equal(undone[name], value)


def test_what_does_not_fit_is_named():
    with pytest.raises(ParameterError, match="equally long"):
        UnitTokens(SHAPES, [[("a", 0), ("e", 0)]])
    with pytest.raises(ParameterError, match="equally long"):
        UnitTokens(SHAPES, [[("missing", 0)]])
    with pytest.raises(ParameterError, match="'b' is"):
        UnitTokens(SHAPES).encode({**networks(), "b": torch.zeros(3, 6)})
    with pytest.raises(ParameterError, match="without tensors"):
        UnitTokens({})
