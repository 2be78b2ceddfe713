import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import GeneratorError
from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
from hypergen.generators.tokens.unit_tokens import apply_orders

GROUP = [["0.weight", 0], ["0.bias", 0], ["2.weight", 1]]


def network(hidden: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def layout(hidden: int = 5) -> dict:
    return {
        "shapes": {name: list(value.shape) for name, value in network(hidden).named_parameters()},
        "groups": [GROUP],
    }


def make(*layouts: dict, moved: bool = True) -> CheckpointTransformer:
    torch.manual_seed(0)
    generator = CheckpointTransformer(layouts or [layout()], width=16, depth=2, heads=2, sampling_steps=4)
    generator.initial_metric.fill_(2.0)
    if moved:  # Before training the change is zero, which hides mistakes.
        for writer in generator.writers.parameters():
            nn.init.normal_(writer, std=0.2)
    return generator.eval()


def stacked(count: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(count, *value.shape) for name, value in network().named_parameters()}


def losses(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_before_training_it_leaves_networks_as_they_are():
    generator, start = make(moved=False), stacked()
    for name, value in generator.step(start, torch.ones(4), 0.5 * torch.ones(4)).items():
        torch.testing.assert_close(value, start[name])


def test_a_network_of_the_layout_is_taken_to_a_loss():
    generator, model = make(), network()
    parameters = generator.generate(model, {"metric": 0.5})
    assert {name: value.shape for name, value in parameters.items()} == {
        name: value.shape for name, value in model.named_parameters()
    }
    other = generator.generate(model, {"metric": 1.5})
    assert not torch.equal(other["0.weight"], parameters["0.weight"])
    start = {name: value.detach() + 1 for name, value in model.named_parameters()}
    assert not torch.allclose(
        generator.generate(model, {"metric": 0.5, "start": start})["0.weight"], parameters["0.weight"]
    )
    # The loss of the start is by default that of the zoo's networks before training.
    same = generator.generate(model, {"metric": 0.5, "start_metric": 2.0})
    torch.testing.assert_close(same["0.weight"], parameters["0.weight"])


def test_the_same_seed_gives_the_same_networks():
    generator, model = make(), network()
    conditions = [{"metric": 0.5}, {"metric": 0.7}]
    first, again, other = (generator.sample(model, conditions, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_it_does_not_care_about_the_order_of_hidden_units():
    generator, start = make(), stacked()
    order = [torch.stack([torch.randperm(5) for _ in range(4)])]
    group = [[(name, axis) for name, axis in GROUP]]
    noised = {name: torch.randn_like(value) for name, value in start.items()}
    told = (torch.tensor([3, 50, 500, 900]), losses(2.0, 2.1, 1.0, 0.5), losses(0.5, 0.6, 0.7, 2.0))
    plain = generator(noised, start, *told)
    moved = generator(apply_orders(noised, group, order), apply_orders(start, group, order), *told)
    for name, value in apply_orders(plain, group, order).items():
        torch.testing.assert_close(moved[name], value)


def test_everything_is_trained():
    generator, start = make(), stacked()
    out = generator(stacked(), start, torch.tensor([1, 2, 3, 4]), torch.ones(4), 0.5 * torch.ones(4))
    sum(value.square().sum() for value in out.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in generator.parameters())


def test_several_layouts():
    generator = make(layout(5), layout(8))
    for hidden in (5, 8):
        assert generator.generate(network(hidden), {"metric": 0.5})["0.weight"].shape == (hidden, 6)
    with pytest.raises(GeneratorError, match="layout of the zoo"):
        generator.generate(network(7), {"metric": 0.5})


def test_saving_and_loading(tmp_path):
    generator, model = make(), network()
    generator.measure_zoo(stacked(), {n: v + 0.1 for n, v in stacked().items()}, torch.rand(9) + 0.1, 2.2)
    generator.save_pretrained(tmp_path / "gpt")
    loaded = hypergen.load_generator(tmp_path / "gpt")
    before, after = (each.generate(model, {"metric": 0.3, "seed": 5}) for each in (generator, loaded))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_recursive_prompting_measures_on_the_way():
    generator, start = make(), stacked()
    asked = []

    def measure(networks):
        asked.append(networks)
        return torch.full((4,), 1.0)

    out = generator.refine(start, 2 * torch.ones(4), 0.5 * torch.ones(4), measure, times=2)
    once = generator.step(start, 2 * torch.ones(4), 0.5 * torch.ones(4))
    assert len(asked) == 2 and torch.equal(asked[0]["0.weight"], once["0.weight"])
    assert torch.equal(asked[1]["0.weight"], out["0.weight"])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "lacks 'metric'"),
        ({"metric": -1.0}, "positive"),
        ({"metric": "low"}, "positive"),
        ({"metric": 0.5, "metrik": 1}, "metrik"),
        ({"metric": 0.5, "start": {"0.weight": torch.zeros(2)}}, "layout"),
    ],
)
def test_conditions_that_do_not_fit_are_named(condition, message):
    with pytest.raises(GeneratorError, match=message):
        make().generate(network(), condition)


def test_a_network_without_weights_needs_a_start():
    with torch.device("meta"):
        model = network()
    with pytest.raises(GeneratorError, match="start"):
        make().generate(model, {"metric": 0.5})
    start = {name: torch.zeros(value.shape) for name, value in model.named_parameters()}
    assert not make().generate(model, {"metric": 0.5, "start": start})["0.weight"].is_meta
