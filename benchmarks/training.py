"""How many networks a second training updates, against a plain loop over the same networks."""

from __future__ import annotations

import json
import logging
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from benchmarks.sweeps.fresh_process import in_fresh_process
from hypergen.evaluation.results import Row

CONFIGURATION = Path(__file__).parents[1] / "conf"
AIM = 120.0
_WINDOWS = 10  # parts of a run whose rates tell the spread
# A run of `train.py` draws each of its architectures so many times, and traces it once: here, too.
_DRAWS_PER_ARCHITECTURE = 8


def training_rows(steps: int, plain_steps: int) -> list[Row]:
    """Updates per second on digits of `train.py`'s training and of the plain loop, each in fresh processes.

    The plain loop runs before and after, so that a machine that grows busy does not favour one of them.
    """
    before = in_fresh_process(train_plainly, plain_steps)
    trained = in_fresh_process(train, steps)
    after = in_fresh_process(train_plainly, plain_steps)
    plain = before + [(before[-1][0] + updates, before[-1][1] + seconds) for updates, seconds in after]
    rows = [
        _rate_row("network_updates_per_second", trained, AIM),
        _rate_row("plain_loop_network_updates_per_second", plain),
    ]
    rows.append(Row("network_updates_over_plain_loop", rows[0].value / rows[1].value))
    return rows


def train(steps: int) -> list[tuple[int, float]]:
    """Train as ``python train.py`` does, with its configuration; network updates and seconds at the end of each step.

    Two processes share each step, while loader workers trace what is drawn for the first time. Neither validates nor
    saves. Time starts when the processes stand.
    """
    torch.set_num_threads(1)
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    module, batches, make_trainer = _configured(steps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "steps.json"  # The processes that train are not this one.
        trainer = make_trainer(
            logger=False,
            callbacks=[_Stopwatch(file, batches.networks_per_step)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            max_time=None,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=batches)
        return [(updates, seconds) for updates, seconds in json.loads(file.read_text())]


class _Stopwatch(pl.Callback):
    def __init__(self, file: Path, networks: int) -> None:
        self.file, self.networks = file, networks
        self.steps: list[tuple[int, float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append((self.networks * (len(self.steps) + 1), time.perf_counter() - self.start))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.file.write_text(json.dumps(self.steps))


def train_plainly(steps: int) -> list[tuple[int, float]]:
    """The loop that one would write first: one process and thread, network by network, autograd from end to end.

    The same networks, images, generator and optimiser; the networks are traced when they are first drawn, too.
    """
    from hypergen.generators.ghn.features import batch_graphs
    from hypergen.generators.ghn.meta_batches import MetaBatches, trace_architecture

    torch.set_num_threads(1)
    module, batches, _ = _configured(steps)
    batches.setup()
    generator = module.generator
    images, labels = batches.data.tensors("train")
    loader = batches.train_dataloader().dataset
    assert isinstance(loader, MetaBatches)
    optimizer = torch.optim.AdamW(generator.parameters(), lr=module.learning_rate)
    networks: dict[int, Any] = {}
    finished, start = [], time.perf_counter()
    for step in range(steps):
        optimizer.zero_grad()
        numbers, chosen = loader.draw(step)
        for number, own in zip(numbers.tolist(), torch.from_numpy(chosen), strict=True):
            if number not in networks:
                traced = trace_architecture(loader.stream[number])
                networks[number] = traced.architecture.build().train(), traced.features
            network, features = networks[number]
            parameters = features.layout.unflatten(*generator(batch_graphs([features])))
            logits = torch.func.functional_call(network, parameters, (images[own],))
            (F.cross_entropy(logits, labels[own]) / len(numbers)).backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        finished.append((len(numbers) * (step + 1), time.perf_counter() - start))
    return finished


def _configured(steps: int) -> tuple[Any, Any, Any]:
    """The parts of ``python train.py``: the LightningModule, the data module, and what makes the trainer."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    import train  # noqa: F401 - sets environment variables, which are part of how it trains
    from hypergen.training.fit import _strategy

    with initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        config = compose("train", [f"training.steps={steps}", "output=.", "name=benchmark"])
    architectures = max(1, steps * config.meta_batches.networks_per_step // _DRAWS_PER_ARCHITECTURE)
    config.meta_batches.architectures = architectures
    pl.seed_everything(config.seed, verbose=False)
    images, space, generator = (instantiate(config[name], _convert_="all") for name in ("data", "space", "generator"))
    images.setup()
    module = instantiate(config.training)(generator=generator, data=images)
    batches = instantiate(config.meta_batches)(data=images, space=space)
    make_trainer = instantiate(config.trainer)
    return module, batches, partial(make_trainer, **_strategy(make_trainer))


def _rate_row(figure: str, steps: list[tuple[int, float]], aim: float | None = None) -> Row:
    """The rate over the whole run; its spread over parts of the run."""
    updates, seconds = steps[-1]
    edges = sorted({round(i * len(steps) / _WINDOWS) for i in range(_WINDOWS + 1)})
    marks = [(0, 0.0), *steps]
    rates = [
        (marks[end][0] - marks[begin][0]) / (marks[end][1] - marks[begin][1])
        for begin, end in zip(edges, edges[1:], strict=False)
    ]
    return Row(figure, updates / seconds, Row.from_values(figure, rates).std, len(rates), aim)
