import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypergen.functional.stacked import Batches, Recipe, train_stacked
from hypergen.functional.stacked_module import StackedModule


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def conv_net():
    # Without a bias, whose gradient before a batch norm is nothing but rounding, which Adam makes large.
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def binary():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split, count in (("train", 50), ("validation", 20), ("test", 20)):
        images = torch.randn(count, 1, 4, 4, generator=generator)
        splits[split] = images, (images.flatten(1)[:, :3]).argmax(1)
    return splits


def train_alone(build, recipe, data, optimizer, decay, batch_size=8, relabel=None):
    """What everybody writes: one network, torch's own optimiser."""
    torch.manual_seed(recipe.init_seed)
    network = build().train()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(recipe.init_scale)
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if optimizer == "adam":
        made = torch.optim.AdamW(network.parameters(), **settings)
    else:
        made = torch.optim.SGD(network.parameters(), momentum=0.9, **settings)
    images, labels = data["train"]
    batches = Batches([recipe], len(images), batch_size)
    for step in range(recipe.steps):
        for group in made.param_groups:
            group["lr"] = recipe.learning_rate * decay(step / recipe.steps)
        chosen = batches.draw(step, torch.tensor([0]))[0]
        target = labels[chosen] if relabel is None else torch.tensor(relabel)[labels[chosen]]
        outputs = network(images[chosen])
        made.zero_grad()
        if outputs.shape[1] == 1:
            F.binary_cross_entropy_with_logits(outputs[:, 0], target.float()).backward()
        else:
            F.cross_entropy(outputs, target).backward()
        made.step()
    return network


SCHEDULES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * share)).item()),
}


@pytest.mark.parametrize("build", [mlp, conv_net, binary])
@pytest.mark.parametrize("optimizer, schedule", [("adam", "constant"), ("adam", "linear"), ("sgd", "cosine")])
def test_networks_become_what_they_become_alone(data, build, optimizer, schedule):
    tasks = {"a": [0, 1, 1], "b": [1, 0, 0]} if build is binary else {"a": [0, 1, 2], "b": [2, 0, 1]}
    recipes = [
        Recipe("one", 9, 1, 5, 0.01, 0.1, 1.5, 1.0, "a"),
        Recipe("two", 4, 2, 6, 0.003, 0.0, 1.0, 0.5, "b"),
        Recipe("three", 9, 1, 6, 0.02, 0.01, 0.5, 0.3, "b"),
    ]
    finals = {}
    for snapshot in train_stacked(
        build, recipes, data, tasks=tasks, batch_size=8, optimizer=optimizer, schedule=schedule
    ):
        for row, network in enumerate(snapshot.networks):
            assert snapshot.step == recipes[network].steps
            finals[network] = (
                {key: value[row] for key, value in snapshot.state.items()},
                {
                    (split, name): values[row].item()
                    for split, named in snapshot.metrics.items()
                    for name, values in named.items()
                },
            )
    for number, recipe in enumerate(recipes):
        alone = train_alone(build, recipe, data, optimizer, SCHEDULES[schedule], relabel=tasks[recipe.task])
        state, metrics = finals[number]
        torch.testing.assert_close(state, dict(alone.state_dict()), rtol=1e-3, atol=1e-5)
        images, labels = data["test"]
        labels = torch.tensor(tasks[recipe.task])[labels]
        alone.eval()
        with torch.no_grad():
            outputs = alone(images)
        predicted = (outputs[:, 0] > 0).long() if build is binary else outputs.argmax(1)
        assert metrics["test", "accuracy"] == pytest.approx((predicted == labels).float().mean().item())


@pytest.mark.parametrize("build", [mlp, conv_net])
def test_networks_that_see_the_same_images_become_what_they_become_alone(data, build):
    recipes = [Recipe(str(i), 6, init_seed=i, learning_rate=0.01 * (i + 1)) for i in range(3)]
    (snapshot,) = train_stacked(build, recipes, data, batch_size=8)
    for number, recipe in enumerate(recipes):
        alone = train_alone(build, recipe, data, "adam", SCHEDULES["constant"])
        state = {key: value[number] for key, value in snapshot.state.items()}
        torch.testing.assert_close(state, dict(alone.state_dict()), rtol=1e-3, atol=1e-5)


def test_snapshots_come_in_order_and_once(data):
    recipes = [Recipe(str(i), steps) for i, steps in enumerate((5, 0, 3, 5))]
    seen = [(s.step, s.networks) for s in train_stacked(mlp, recipes, data, save_steps=[0, 2], batch_size=8)]
    assert seen == [(0, (0, 1, 2, 3)), (2, (0, 2, 3)), (3, (2,)), (5, (0, 3))]


def test_a_snapshot_stays_what_it_was(data):
    snapshots = list(train_stacked(conv_net, [Recipe("a", 3), Recipe("b", 3)], data, save_steps=[0, 1], batch_size=8))
    again = next(train_stacked(conv_net, [Recipe("a", 3), Recipe("b", 3)], data, save_steps=[0], batch_size=8))
    torch.testing.assert_close(snapshots[0].state, again.state, rtol=0, atol=0)
    assert snapshots[2].state["1.num_batches_tracked"].tolist() == [3, 3]


def test_a_network_that_diverges_is_named_and_leaves_the_others_alone(data):
    calm = Recipe("calm", 6, learning_rate=0.01)
    recipes = [calm, Recipe("wild", 6, learning_rate=1e30), calm]
    snapshots = list(train_stacked(mlp, recipes, data, save_steps=[3], batch_size=8, optimizer="sgd"))
    assert [(s.networks, s.diverged) for s in snapshots] == [((0, 2), (1,)), ((0, 2), ())]
    (alone,) = train_stacked(mlp, [calm], data, batch_size=8, optimizer="sgd")
    for key, value in alone.state.items():
        torch.testing.assert_close(snapshots[-1].state[key][0], value[0])


def test_training_goes_on_from_given_parameters(data):
    start = StackedModule(mlp).initialise([7, 8])
    (none,) = train_stacked(mlp, [Recipe("a", 0), Recipe("b", 0)], data, initial=start)
    torch.testing.assert_close(none.state, start, rtol=0, atol=0)


def test_a_data_fraction_is_the_same_images_in_every_round():
    recipe = Recipe("a", 100, data_seed=3, data_fraction=0.2)
    batches = Batches([recipe, Recipe("b", 100, data_seed=3)], 50, 8)
    seen = [batches.draw(step, torch.tensor([0, 1])) for step in range(40)]
    assert len(torch.cat([chosen[0] for chosen in seen]).unique()) == 10
    # Without replacement: a round of 6 batches has 48 different images of 50.
    assert len(torch.cat([chosen[1] for chosen in seen[:6]]).unique()) == 48
    assert not torch.equal(seen[0][1], seen[6][1])


def test_initialisation_leaves_the_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stacked = StackedModule(mlp).initialise([3, 4, 3])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    torch.testing.assert_close(stacked["1.weight"][1], mlp().state_dict()["1.weight"], rtol=0, atol=0)
    assert torch.equal(stacked["1.weight"][0], stacked["1.weight"][2])


def test_contradictions_are_named(data):
    for recipes, options, message in (
        ([], {}, "no recipes"),
        ([Recipe("a", 1, task="x")], {"tasks": {"y": [0, 1, 2]}}, "'x' is not among"),
        ([Recipe("a", 1, task="x")], {"tasks": {"x": [0, 1]}}, "relabel 2 classes"),
        ([Recipe("a", 1)], {"batch_size": 51}, "from 1 to 50"),
        ([Recipe("a", 1, data_fraction=0.0)], {}, "data_fraction"),
    ):
        with pytest.raises(ValueError, match=message):
            list(train_stacked(mlp, recipes, data, **{"batch_size": 8, **options}))
