from functools import partial

import pytorch_lightning as pl
import torch

from experiments.architecture_ranking.run import train_architecture_ranking
from experiments.architecture_ranking.training import ArchitectureRanking
from hypergen.data import DigitsDataModule


def test_the_experiment_writes_a_figure_for_each_method(tmp_path):
    results = train_architecture_ranking(
        name="architecture_ranking",
        output=str(tmp_path),
        seed=0,
        data=DigitsDataModule(),
        trainer=partial(pl.Trainer, accelerator="cpu", max_epochs=-1, enable_model_summary=False),
        ranking=partial(ArchitectureRanking, hidden=8, layers=1, steps=2),
        splits=["test"],
        unseen_splits=["new_family"],
        train=3,
        held_out=2,
        samples=4,
        seeds=2,
    )
    methods = ("text", "boosted_counts", "parameters", "multiply_adds", "gradsign", "gradient_norm")
    for part in ("", "_new_family"):
        assert all(-1 <= results[f"kendall_tau{part}_{method}"].value <= 1 for method in methods)
        assert results[f"architectures{part}"].value == 2
    assert results["kendall_tau_text"].n == 2
    assert (tmp_path / "results.json").exists() and (tmp_path / "ranking.png").exists()


def test_a_ranking_is_learned():
    torch.manual_seed(0)
    texts = [("input out=1x8x8 from=", *["relu out=4 from=1"] * length) for length in range(1, 9)]
    module = ArchitectureRanking(texts, torch.arange(8.0), hidden=16, layers=1, dropout=0.0)
    module.log = lambda *_, **__: None
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(30):
        loss = module.training_step(torch.arange(8), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert module.predict(texts).argsort().tolist() == list(range(8))
