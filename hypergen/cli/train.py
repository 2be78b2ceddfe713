"""``python train.py`` and ``hypergen train``: make what the configuration names, fit it, test it, return a metric.

Importing this module sets the environment that training runs in, so it comes before anything imports torch.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Runs use one process per core, and threads on top of them would get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hypergen.cli.boundary import error_boundary
from hypergen.cli.training.check_config import check_config
from hypergen.cli.training.experiments import check_options, find_procedure, help_on_experiments
from hypergen.cli.training.optuna_sweeper import register_sweeper
from hypergen.errors import HypergenError

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configuration lies inside the package; in a checkout beside it.
CONFIGURATION = next(path for path in (_PACKAGE.parent / "conf", _PACKAGE / "conf") if (path / "train.yaml").is_file())


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
        results: Rows of its evaluation; None where nothing was evaluated.
        logged: Metrics that training logged last.
    """

    results: Any
    logged: dict[str, float]

    def metric(self, name: str) -> float:
        """A row of the results, or else a logged metric.

        Raises:
            HypergenError: There is neither.
        """
        rows = {} if self.results is None else {row.figure: float(row.value) for row in self.results.rows}
        found = self.logged | rows
        if name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise HypergenError(f"The run has no metric {name!r}; set optimized_metric to one of these: {known}.")
        return found[name]


def run(config: DictConfig) -> Outcome:
    """Run a task or the procedure of an experiment.

    Args:
        config: The whole configuration.

    Raises:
        HypergenError: Something in the configuration does not fit.
        TrainingInterrupted: A signal stopped training; a checkpoint was saved.
    """
    import pytorch_lightning as pl
    import torch

    torch.set_num_threads(1)
    pl.seed_everything(config.seed, verbose=False)
    if "procedure" in config:
        return Outcome(_call_procedure(config), {})
    check_config(config)
    return _fit_and_test(config)


def _fit_and_test(config: DictConfig) -> Outcome:
    from functools import partial

    from rich.console import Console

    from hypergen.architectures.by_name import look_in_current_folder
    from hypergen.data.zoo import ZooDataModule
    from hypergen.training.fit import fit

    console, output = Console(), Path(config.output)
    look_in_current_folder()
    data = instantiate(config.data, _convert_="all")
    evaluated_later = config.evaluate and config.get("evaluation") is not None
    if evaluated_later and isinstance(data, ZooDataModule) and "metanetwork" not in config:
        data.held_out()  # Before the minutes of training: without any, there is nothing to evaluate on.
    space = instantiate(config.space, _convert_="all") if "space" in config else None
    model = instantiate(config.model, _convert_="all")
    if isinstance(model, partial):  # What has to know the data to be made.
        model = model(data)
    number = sum(parameter.numel() for parameter in model.parameters())
    console.print(f"{config.name}: training a {type(model).__name__} of {number:,} parameters, seed {config.seed}")
    trainer, logger, callbacks = (
        instantiate(config.get(name), _convert_="all") for name in ("trainer", "logger", "callbacks")
    )
    begun = time.monotonic()
    logged: dict[str, float] = {}
    for stage in ("pretraining", "training"):
        if "_target_" not in config.get(stage, {}):  # debug=fast sets steps of both.
            continue
        module = instantiate(config[stage], _convert_="all")(model, data)
        batches = {}
        if "meta_batches" in config:
            batches["datamodule"] = instantiate(config.meta_batches, _convert_="all")(data=data, space=space)
        make = trainer if stage == "training" else partial(trainer, max_steps=module.steps)
        last = stage == "training"
        fitted = fit(
            module, batches, make, logger, callbacks if last else None, str(output), config.ckpt_path if last else None
        )
        logged = {name: float(value) for name, value in fitted.callback_metrics.items()}
    seconds = time.monotonic() - begun
    console.print(f"Trained in {seconds:.0f} s")
    model.eval()
    folder = output / "generator"
    saves = hasattr(model, "save_pretrained") and hasattr(module, "generator")
    if saves:  # Before the evaluation, which takes minutes and may be interrupted, and again with its numbers.
        model.save_pretrained(folder)
    results = None
    if evaluated_later:
        options: dict[str, Any] = {"name": config.name, "seed": config.seed}
        if saves and isinstance(data, ZooDataModule):
            from hypergen.evaluation.zoo.data import Cost

            options["cost"] = Cost(seconds, number, *_zoo_cost(data))
        evaluated = instantiate(config.evaluation, _convert_="all")(model if saves else module, data, **options)
        evaluated.write(output)
        results = evaluated.results
        if saves:
            model.save_pretrained(folder, results=results.to_dict())
        (evaluated if hasattr(evaluated, "print_table") else results).print_table()
        if hasattr(evaluated, "in_words"):
            console.print(evaluated.in_words(), highlight=False, markup=False)
        console.print(f"Results, tables and plots are in {output}", soft_wrap=True)
    if saves:
        console.print(f"The generator is in {folder}", soft_wrap=True)
    return Outcome(results, logged)


def _call_procedure(config: DictConfig) -> Any:
    """Call an experiment's own function with the options that have the names of its arguments."""
    import inspect

    function = find_procedure(config.procedure)
    names = [name for name in inspect.signature(function).parameters if name in config]
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    check_config({"_target_": config.procedure, **{name: plain[name] for name in names}})
    values = {}
    for name in names:
        value = config[name]
        values[name] = instantiate(value, _convert_="all") if OmegaConf.is_config(value) else value
    results = function(**values)
    return getattr(results, "results", results)


@hydra.main(version_base="1.3", config_path=str(CONFIGURATION), config_name="train")
def _main(config: DictConfig) -> float | None:
    with error_boundary(interrupted=_how_to_go_on):
        outcome = run(config)
        if config.optimized_metric is None:
            return None
        try:
            return outcome.metric(config.optimized_metric)
        except HypergenError as error:  # The run itself is complete; a search by this metric stops.
            print(error, file=sys.stderr)
            return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a run with the options of the command line.

    Args:
        arguments: Options; those that this process was started with by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Hydra's own pages select experiments by +experiment=NAME; here there always is a choice, so it is replaced.
    given = [option.removeprefix("+") if option.startswith("+experiment=") else option for option in given]
    if "--help" in given or "-h" in given:
        print(help_on_experiments(CONFIGURATION))
    # Hydra would print the traceback of what is wrong with options and folders; with this it passes errors on.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    with error_boundary():
        check_options(given, CONFIGURATION)
        register_sweeper()
        sys.argv[1:] = given
        _main()


def _zoo_cost(data: Any) -> tuple[float, int]:
    report = data.report
    return (float("nan"), len(data.zoo.last())) if report is None else (report.seconds, report.networks)


def _how_to_go_on(error: BaseException) -> str:
    checkpoint = getattr(error, "checkpoint", None)
    if checkpoint is None:
        return "Interrupted."
    options = [option for option in HydraConfig.get().overrides.task if not option.startswith("ckpt_path=")]
    again = shlex.join(["python", "train.py", *options, f"ckpt_path={checkpoint}"])
    return f"Interrupted, and saved. To go on:\n  {again}"
