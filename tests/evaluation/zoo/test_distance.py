import itertools

import pytest
import torch

from hypergen.evaluation.zoo.distance import distance_to_averages, nearest, overlap, paired_distances

SYMMETRY = [[("a", 0), ("b", 1)], [("b", 0), ("c", 1)]]


def nets(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3), "b": (3, 4), "c": (2, 3)}
    return {name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}


def shuffled(stacked: dict[str, torch.Tensor], one: list[int], two: list[int]) -> dict[str, torch.Tensor]:
    return {"a": stacked["a"][:, one], "b": stacked["b"][:, two][:, :, one], "c": stacked["c"][:, :, two]}


def test_the_distance_is_the_least_over_permutations():
    one, other = nets(3), nets(3, 1)
    group = SYMMETRY[:1]
    every = [
        sum(
            (value - other[name]).flatten(1).square().sum(1)
            for name, value in shuffled(one, list(order), [0, 1, 2]).items()
        ).sqrt()
        for order in itertools.permutations(range(4))
    ]
    torch.testing.assert_close(paired_distances(one, other, group), torch.stack(every).amin(0))
    plain = paired_distances(one, other, [])
    assert (plain >= paired_distances(one, other, SYMMETRY)).all()


def test_the_nearest_is_found_behind_a_permutation():
    pool = nets(40)
    queries = shuffled({name: value[[7, 21]] for name, value in pool.items()}, [3, 2, 1, 0], [2, 1, 0])
    distance, index = nearest(queries, pool, SYMMETRY)
    assert index.tolist() == [7, 21] and distance.max() < 1e-3
    assert nearest(queries, pool, [])[0].min() > 0.5


@pytest.mark.parametrize("size", [2, 5, 40])
def test_averages_are_found(size):
    pool = nets(40)
    vectors = torch.cat([value.flatten(1) for value in pool.values()], 1)
    near = torch.cdist(vectors[:1], vectors)[0].argsort()[:size]
    mean = {name: value[near].mean(0, keepdim=True) for name, value in pool.items()}
    assert distance_to_averages(mean, pool, []) < 0.5 * distance_to_averages(nets(1, 5), pool, [])


def test_overlap_by_hand():
    one = torch.tensor([[True, True, False, False], [False] * 4])
    other = torch.tensor([[True, False, True, False], [False] * 4])
    torch.testing.assert_close(overlap(one, other), torch.tensor([[1 / 3, 0.0], [0.0, 1.0]]))
