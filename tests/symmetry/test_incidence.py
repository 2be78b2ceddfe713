"""Which indices of which groups lie where, against structures written out by hand."""

import torch

from hypergen.symmetry.incidence import incidence
from hypergen.symmetry.structure import Choice, Group, Product, Sum


def table(occurrences, shape):
    """Slot and group → the index at every place, -1 where the group does not lie."""
    return {
        (own.slot, own.group.name): torch.where(
            torch.ones(shape, dtype=torch.bool) if own.inside is None else own.inside, own.at, -1
        ).tolist()
        for own in occurrences
    }


def test_heads_and_their_channels_lie_in_slots_of_their_own_where_a_choice_is_a_product():
    parts = (Group("one", 1, fixed="a single index"), Group("other", 1, fixed="a single index"))
    heads = Group("heads", 2)
    channels = Group("channels", 3, (heads,))
    whole = Group("whole", 6)
    axis = Product((Sum(parts), Choice(parts, (Product((heads, channels)), whole))))
    found = incidence([axis])
    assert found.shape == (12,)
    assert table(found.axes[0], (12,)) == {
        (0, "heads"): [0, 0, 0, 1, 1, 1] + [-1] * 6,
        (1, "channels"): [0, 1, 2, 3, 4, 5] + [-1] * 6,
        (0, "whole"): [-1] * 6 + [0, 1, 2, 3, 4, 5],
    }
    assert found.segments[0].tolist() == [0] * 6 + [1] * 6


def test_a_product_is_divided_where_another_axis_varies_with_a_factor():
    groups = Group("groups", 2)
    outputs, inputs = Group("outputs", 3, (groups,)), Group("inputs", 4, (groups,))
    found = incidence([Product((groups, outputs)), inputs])
    assert found.shape == (2, 3, 4)
    assert table(found.axes[0], (2, 1, 1)) == {(0, "groups"): [[[0]], [[1]]]}
    assert table(found.axes[1], (2, 3, 1))[0, "outputs"] == [[[0], [1], [2]], [[3], [4], [5]]]
    assert table(found.axes[2], (2, 1, 4))[0, "inputs"] == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    alone = incidence([Product((groups, outputs))])
    assert alone.shape == (6,)  # nothing else varies with it
    assert table(alone.axes[0], (6,)) == {(0, "groups"): [0, 0, 0, 1, 1, 1], (1, "outputs"): [0, 1, 2, 3, 4, 5]}
