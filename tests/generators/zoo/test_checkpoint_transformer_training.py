import json

import pytest
import torch
from pytorch_lightning import Trainer

import hypergen
from hypergen.errors import ParameterError
from hypergen.generators.checkpoint_transformer.model import CheckpointTransformer
from hypergen.generators.checkpoint_transformer.training import (
    CheckpointTransformerTraining,
    Trajectories,
    read_trajectories,
)

SHAPES = {"w": [4, 3], "v": [2, 4]}
GROUPS = [[["w", 0], ["v", 1]]]


def trajectories(runs: int = 30, checkpoints: int = 6) -> Trajectories:
    """Weights shrink as the loss falls, by as much in every run: what there is to learn."""
    torch.manual_seed(0)
    losses = torch.linspace(2.0, 0.5, checkpoints).expand(runs, -1) + 0.05 * torch.rand(runs, checkpoints)
    start = {name: torch.randn(runs, 1, *shape) for name, shape in SHAPES.items()}
    return Trajectories({name: value * losses[..., None, None] for name, value in start.items()}, losses)


def train(steps: int, **options) -> CheckpointTransformerTraining:
    torch.manual_seed(0)
    generator = CheckpointTransformer([{"shapes": SHAPES, "groups": GROUPS}], width=32, depth=2, sampling_steps=5)
    module = CheckpointTransformerTraining(generator, trajectories(), steps=steps, **options)
    trainer = Trainer(max_steps=steps, logger=False, enable_progress_bar=False, accelerator="cpu",
                      enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module)
    return module


def test_it_learns_what_a_loss_asks_for():
    module = train(250, learning_rate=3e-3, average_decay=0.98)
    unseen = trajectories(60)
    index = torch.arange(30, 60)
    start, now = unseen.at(index, torch.zeros(30, dtype=torch.long)), unseen.metrics[index, 0]
    wanted = torch.linspace(0.6, 1.9, 30)
    with torch.no_grad():
        found = module.generator.eval().step(start, now, wanted)
    shrunk = (found["w"] * start["w"]).sum((1, 2)) / start["w"].square().sum((1, 2))
    torch.testing.assert_close(shrunk, wanted / now, atol=0.15, rtol=0.15)


def test_a_step_is_determined_by_its_number_and_seed():
    first, second = (train(3).generator.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train(3, seed=1).generator.state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_checkpoints_are_sorted_into_runs():
    losses = torch.tensor([3.0, 1.0, 4.0, 2.0])
    found = read_trajectories({"w": losses[:, None]}, losses, ["b", "a", "b", "a"], [0, 0, 10, 10])
    assert found.metrics.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert torch.equal(found.parameters["w"][..., 0], found.metrics)
    with pytest.raises(ParameterError, match="same steps"):
        read_trajectories({"w": losses[:3, None]}, losses[:3], ["b", "a", "b"], [0, 0, 10])


def test_losses_must_be_positive_numbers():
    with pytest.raises(ParameterError, match=r"runs \[1\]"):
        Trajectories({"w": torch.zeros(2, 2)}, torch.tensor([[1.0, 2.0], [1.0, float("nan")]]))
    with pytest.raises(ParameterError, match="at least two"):
        Trajectories({"w": torch.zeros(2, 1)}, torch.ones(2, 1))


def test_the_experiment_end_to_end(run, tmp_path):
    folder = run("experiment=checkpoint_transformer", "debug=fast", "logger=none", "zoo.networks=40")
    figures = {row["figure"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert figures["generated_prompt_r2"]["aim"] == 0.9 and figures["own_training_prompt_r2"]["value"] > 0.5
    assert {"recursive_prompt_r2", "identity_prompt_r2", "nearest_condition_prompt_r2"} <= set(figures)
    assert (tmp_path / "prompts.png").exists()
    assert type(hypergen.load_generator(folder)) is CheckpointTransformer
