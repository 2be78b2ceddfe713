import torch

from hypergen.symmetry.align.stacked import align

SYMMETRY = [[("a", 0), ("b", 1)], [("b", 0), ("c", 1)]]


def nets(count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (4, 3), "b": (3, 4), "c": (2, 3)}
    return {name: torch.randn(count, *shape, generator=generator) for name, shape in shapes.items()}


def shuffled(stacked: dict[str, torch.Tensor], one: list[int], two: list[int]) -> dict[str, torch.Tensor]:
    return {"a": stacked["a"][:, one], "b": stacked["b"][:, two][:, :, one], "c": stacked["c"][:, :, two]}


def output(stacked: dict[str, torch.Tensor]) -> torch.Tensor:
    x = torch.linspace(-1, 1, 3)
    return stacked["c"] @ (stacked["b"] @ (stacked["a"] @ x)[..., None].tanh()).tanh()


def test_aligning_undoes_a_permutation_and_keeps_the_function():
    original = nets(5)
    moved = shuffled(original, [2, 0, 3, 1], [1, 2, 0])
    assert not torch.allclose(moved["a"], original["a"])
    aligned = align(moved, original, SYMMETRY)
    for name, value in original.items():
        torch.testing.assert_close(aligned[name], value)
    torch.testing.assert_close(output(align(nets(5, 1), original, SYMMETRY)), output(nets(5, 1)))


def test_nothing_ends_up_farther_than_it_was():
    networks, reference = nets(30), nets(1, 1)
    before, after = (
        sum((stack[name] - value).flatten(1).square().sum(1) for name, value in reference.items())
        for stack in (networks, align(networks, reference, SYMMETRY))
    )
    assert (after <= before + 1e-4).all() and (after < before - 0.1).any()


def test_each_network_may_have_a_reference_of_its_own():
    original = nets(6)
    aligned = align(shuffled(original, [1, 2, 3, 0], [2, 1, 0]), original, SYMMETRY)
    for name, value in original.items():
        torch.testing.assert_close(aligned[name], value)


def test_without_groups_nothing_moves():
    networks = nets(3)
    for name, value in align(networks, nets(1, 1), []).items():
        assert value is networks[name]
