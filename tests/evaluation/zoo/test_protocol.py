import json
import math
from dataclasses import dataclass
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.evaluation.zoo.baselines import nearest_condition, noise_added, pair_average, spread
from hypergen.evaluation.zoo.data import Checkpoints, Cost, Stacked, select
from hypergen.evaluation.zoo.finetuning import FinetuningProtocol
from hypergen.evaluation.zoo.problem import StackedClassification, accuracies
from hypergen.evaluation.zoo.protocol import Prompts, evaluate_zoo_generator

HIDDEN, CLASSES, INPUTS = 8, 6, 12
SYMMETRY = [[("0.weight", 0), ("0.bias", 0), ("2.weight", 1)]]
SHORT = FinetuningProtocol(learning_rates=(1e-2,), steps=12)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))


def initial(number: int, *, shared: bool, first: int = 0) -> Stacked:
    made = []
    for index in range(first, first + number):
        torch.manual_seed(0 if shared else index)
        made.append(network().state_dict())
    return {name: torch.stack([one[name] for one in made]) for name in made[0]}


@dataclass
class Scene:
    problem: StackedClassification
    train: Checkpoints
    held_out: Checkpoints
    init: Stacked
    shared: bool

    def trained(self, conditions: Tensor, seed: int, first: int = 0) -> Stacked:
        """What an honest generator would give: networks that fit the conditions and were not there before."""
        start = initial(len(conditions), shared=self.shared, first=first)
        steps = self.problem.training_steps(start, conditions, learning_rate=2e-2, seed=seed)
        return next(islice(steps, 120, None))

    def evaluate(self, sampler, **options):
        return evaluate_zoo_generator(
            sampler,
            self.problem,
            self.train,
            {"task": self.held_out},
            init=self.init,
            samples=2,
            finetuning=SHORT,
            **options,
        )


def build(*, shared: bool, tasks: int, held_out: int, runs: int) -> Scene:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, INPUTS, generator=generator)
    data = {}
    for split in ("train", "validation", "test"):
        classes = torch.arange(240) % CLASSES
        noise = 1.1 * torch.randn(240, INPUTS, generator=generator)
        data[split] = (centres[classes] + noise, classes)
    problem = StackedClassification(network(), data, relabel=lambda codes: codes > 0, symmetry=SYMMETRY)
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * CLASSES)
    codes = codes[codes.sum(1).abs() < 4]
    codes = codes[torch.randperm(len(codes), generator=generator)]
    scene = Scene(problem, None, None, initial(1 if shared else 16, shared=shared), shared)
    parts = []
    for number, part in enumerate((codes[:tasks], codes[tasks : tasks + held_out])):
        conditions = part.repeat(runs, 1)
        # Runs from one initialisation differ in the order of samples, which all networks of a call share.
        calls = runs if shared else 1
        each = conditions[: len(conditions) // calls]
        trained = [scene.trained(each, 10 * number + run, first=1000 * number) for run in range(calls)]
        stacked = {name: torch.cat([one[name] for one in trained]) for name in trained[0]}
        parts.append(Checkpoints(stacked, conditions, torch.arange(len(part)).repeat(runs)))
    scene.train, scene.held_out = parts
    return scene


@pytest.fixture(scope="module", params=["shared", "independent"])
def scene(request) -> Scene:
    return build(shared=request.param == "shared", tasks=30, held_out=10, runs=2)


@pytest.fixture(scope="module")
def one_task() -> Scene:
    """Many runs of one task, some of which are held out."""
    scene = build(shared=False, tasks=1, held_out=1, runs=60)
    index = torch.arange(60)
    scene.train, scene.held_out = scene.train[index < 40], scene.train[index >= 40]
    return scene


def permuted(networks: Stacked, seed: int) -> Stacked:
    """The same functions with their hidden units in other orders."""
    generator = torch.Generator().manual_seed(seed)
    count = len(networks["0.bias"])
    order = torch.stack([torch.randperm(HIDDEN, generator=generator) for _ in range(count)])
    rows = torch.arange(count)[:, None]
    return {
        "0.weight": networks["0.weight"][rows, order],
        "0.bias": networks["0.bias"][rows, order],
        "2.weight": networks["2.weight"].mT[rows, order].mT,
        "2.bias": networks["2.bias"],
    }


def test_a_generator_that_copies_memorises(scene):
    copy = nearest_condition(scene.train)
    assert scene.evaluate(copy).verdict() == "memorises"
    # Nor does it help to hide a copy behind a permutation of hidden units, or behind a little noise.
    assert scene.evaluate(lambda *asked: permuted(copy(*asked), 0)).verdict() == "memorises"
    assert scene.evaluate(noise_added(copy, spread(scene.train.parameters), 0.05)).verdict() == "memorises"


def test_a_generator_that_averages_says_so(scene):
    pairs = pair_average(scene.train)
    assert scene.evaluate(lambda *asked: permuted(pairs(*asked), 1)).verdict() == "averages"

    def mean_net(conditions: Tensor, samples: int, seed: int) -> Stacked:
        mean = {name: value.mean(0, keepdim=True) for name, value in scene.train.parameters.items()}
        return select(mean, torch.zeros(len(conditions) * samples, dtype=torch.long))

    assert scene.evaluate(mean_net).verdict() == "averages"


def test_a_generator_that_adds_noise_says_so(scene):
    noisy = noise_added(nearest_condition(scene.train), spread(scene.train.parameters), 1.0)
    evaluation = scene.evaluate(noisy)
    assert evaluation.verdict() == "adds noise"
    margin = evaluation.results["margin_over_noise_at_equal_novelty"]
    assert abs(margin.value) < 3 * margin.std / margin.n**0.5 + 0.02


def test_random_networks_fail(scene):
    def random(conditions: Tensor, samples: int, seed: int) -> Stacked:
        torch.manual_seed(seed)
        count = len(conditions) * samples
        return {name: torch.randn(count, *value.shape[1:]) for name, value in scene.train.parameters.items()}

    assert scene.evaluate(random).verdict() == "fails"


def test_an_honest_generator_generalises(scene):
    def honest(conditions: Tensor, samples: int, seed: int) -> Stacked:
        return scene.trained(conditions.repeat_interleave(samples, 0), seed + 77, first=5000)

    evaluation = scene.evaluate(honest)
    assert evaluation.verdict() == evaluation.verdict(method="trained") == "generalises"
    results = evaluation.results
    assert results["generated_accuracy"].value > results["nearest_condition_accuracy"].value + 0.03
    assert 0.7 < results["generated_novelty_relative"].value < 1.4
    assert abs(results["generated_below_trained"].value) < 0.02
    assert results["steps_saved"].value > 0


def test_the_signature_of_averaging(one_task):
    """Within one task averages beat the networks that they are made of, which is no merit."""

    def mean_of_aligned(conditions: Tensor, samples: int, seed: int) -> Stacked:
        from hypergen.evaluation.zoo.baselines import aligned_to_first

        aligned = aligned_to_first(one_task.train, one_task.problem).parameters
        torch.manual_seed(seed)
        chosen = torch.stack([torch.randperm(40)[:12] for _ in range(samples)])
        return {name: value[chosen].mean(1) for name, value in aligned.items()}

    assert one_task.evaluate(mean_of_aligned).verdict() == "averages"

    def honest(conditions: Tensor, samples: int, seed: int) -> Stacked:
        return one_task.trained(conditions.repeat_interleave(samples, 0), seed + 77, first=5000)

    evaluation = one_task.evaluate(honest)
    assert evaluation.verdict() == "generalises"
    assert evaluation.results["generated_accuracy"].n >= 32


def test_every_baseline_is_printed_beside_the_generator(scene, tmp_path):
    prompts = Prompts(scene.train.conditions[:8], torch.linspace(0.5, 1, 8), "accuracy")
    aims = {"generated_accuracy": 0.99}
    first_run = torch.arange(60) < 30
    evaluation = evaluate_zoo_generator(
        nearest_condition(scene.train),
        scene.problem,
        scene.train[first_run],
        {"task": scene.held_out, "run": scene.train[~first_run]},
        init=scene.init,
        samples=2,
        prompts=prompts,
        cost=Cost(3.0, 100, 5.0, 60),
        finetuning=SHORT,
        aims=aims,
    )
    plots = evaluation.write(tmp_path)
    figures = {row["figure"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    methods = "generated trained init nearest_condition nearest_weight mean_net pair_average linear gaussian noise_03"
    for method in methods.split():
        assert 0 <= figures[f"{method}_accuracy"]["value"] <= 1
        assert f"{method}_accuracy_by_run" in figures
        assert f"| {method} |" in (tmp_path / "results.md").read_text()
    assert figures["generated_accuracy"]["aim"] == 0.99 and figures["trained_accuracy"]["aim"] is None
    assert figures["generated_prompt_correlation"]["n"] == 8
    assert figures["zoo_seconds"]["value"] == 5 and figures["generator_parameters"]["value"] == 100
    assert {path.name for path in plots} >= {"accuracy_task.png", "novelty_run.png", "prompts.png"}
    evaluation.print_table()


def test_figures_are_means_over_all_samples(scene):
    """Half of the networks of each condition are useless, which the mean must show."""
    honest = scene.trained(scene.held_out.conditions.unique(dim=0), 5, first=5000)

    def half(conditions: Tensor, samples: int, seed: int) -> Stacked:
        pairs = {name: torch.stack([value, torch.zeros_like(value)], 1) for name, value in honest.items()}
        index = torch.arange(samples) % 2
        return {name: value[:, index].flatten(0, 1) for name, value in pairs.items()}

    evaluation = scene.evaluate(half)
    conditions = scene.held_out.conditions.unique(dim=0)
    good = accuracies(scene.problem, honest, conditions, "test").mean()
    zero = accuracies(scene.problem, {name: 0 * value for name, value in honest.items()}, conditions, "test").mean()
    assert math.isclose(evaluation.results["generated_accuracy"].value, float(good + zero) / 2, abs_tol=1e-5)


def test_the_same_seed_gives_the_same_figures(scene):
    noisy = noise_added(nearest_condition(scene.train), spread(scene.train.parameters), 0.5)
    first, second = (scene.evaluate(noisy, seed=3).results.rows for _ in range(2))
    assert {row.figure: row.value for row in first} == pytest.approx({row.figure: row.value for row in second})


def test_held_out_networks_that_were_trained_on_are_refused(scene):
    with pytest.raises(ParameterError, match="among the training networks"):
        evaluate_zoo_generator(
            nearest_condition(scene.train), scene.problem, scene.train, {"run": scene.train}, init=scene.init
        )


def test_the_nearest_condition_has_only_its_own_networks(scene):
    """Where a task has fewer networks than there are samples, they come again; others would be a weaker baseline."""
    conditions = scene.train.conditions.unique(dim=0)
    found = nearest_condition(scene.train)(conditions, 5, 0)
    own = accuracies(scene.problem, found, conditions.repeat_interleave(5, 0), "test")
    every = accuracies(scene.problem, scene.train.parameters, scene.train.conditions, "test")
    assert own.min() >= every.min() and len(own) == 5 * len(conditions)


def test_checkpoints_that_do_not_fit_are_refused(scene):
    with pytest.raises(ParameterError, match="conditions"):
        Checkpoints(scene.train.parameters, scene.train.conditions[:3], scene.train.tasks)
