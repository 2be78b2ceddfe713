"""Optuna as a sweeper of Hydra: ``python train.py -m hparams_search=NAME``.

The published plugin, hydra-optuna-sweeper, asks for an Optuna before 3.0, and hypergen's searches for a later one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hypergen.errors import HypergenError, missing_extra


class OptunaSweeper(Sweeper):
    """Draws values by Optuna's TPE and starts a job with each; the metric that jobs return is optimised.

    Args:
        direction: ``"maximize"`` or ``"minimize"``.
        n_trials: Number of jobs.
        params: Ranges in Hydra's notation by option: ``interval(0, 1)``, ``tag(log, interval(1e-4, 1e-1))``,
            ``range(1, 5)`` or ``choice(a, b)``; those on the command line are added.
        seed: Random seed of the sampler.
    """

    def __init__(
        self,
        direction: Literal["minimize", "maximize"] = "maximize",
        n_trials: int = 10,
        params: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        self.direction, self.n_trials, self.seed = direction, n_trials, seed
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take up what Hydra gives before a sweep."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials one after another; the best is written to ``optimization_results.yaml``.

        Raises:
            HypergenError: Optuna is missing, or a job returned no number.
        """
        try:
            import optuna
        except ImportError as error:
            raise missing_extra("A search", "optuna", "search") from error
        parser = OverridesParser.create()
        given = parser.parse_overrides([f"{name}={value}" for name, value in self.params.items()] + arguments)
        ranges = {each.get_key_element(): each for each in given if each.is_sweep_override()}
        fixed = [each.input_line for each in parser.parse_overrides(arguments) if not each.is_sweep_override()]
        assert self.config is not None and self.launcher is not None
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction=self.direction, sampler=optuna.samplers.TPESampler(seed=self.seed))
        for number in range(self.n_trials):
            trial = study.ask()
            chosen = [f"{name}={_suggest(trial, name, each)}" for name, each in ranges.items()]
            (job,) = self.launcher.launch([[*map(str, fixed), *chosen]], initial_job_idx=number)
            value = job.return_value
            if not isinstance(value, (int, float)):
                raise HypergenError("A job returned no metric to search by; set optimized_metric to one that it has.")
            study.tell(trial, value)
        best = {"best_params": study.best_params, "best_value": study.best_value, "best_job": study.best_trial.number}
        OmegaConf.save(OmegaConf.create(best), folder / "optimization_results.yaml")
        return best


def _suggest(trial: Any, name: str, override: Any) -> Any:
    """Draw a value from a range in Hydra's notation."""
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep

    sweep = override.value()
    if isinstance(sweep, ChoiceSweep):
        return trial.suggest_categorical(name, [str(value) for value in override.sweep_string_iterator()])
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return trial.suggest_int(name, sweep.start, sweep.end, log=log)
        return trial.suggest_float(name, float(sweep.start or 0.0), float(sweep.end or 0.0), log=log)
    assert isinstance(sweep, RangeSweep)
    return trial.suggest_categorical(name, [str(value) for value in override.sweep_string_iterator()])


# Hydra makes only plugins of this top-level package, which no wheel of ours should occupy.
OptunaSweeper.__module__ = "hydra_plugins.hypergen"


def register_sweeper() -> None:
    """Let Hydra know of the sweeper."""
    home = sys.modules.setdefault(OptunaSweeper.__module__, ModuleType(OptunaSweeper.__module__))
    home.OptunaSweeper = OptunaSweeper  # type: ignore[attr-defined]
    if importlib.util.find_spec("hydra_plugins") is None:
        sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins")).__path__ = []
    Plugins.instance().register(OptunaSweeper)
    ConfigStore.instance().store(
        group="hydra/sweeper",
        name="hypergen_optuna",
        node={"_target_": "hydra_plugins.hypergen.OptunaSweeper", "direction": "maximize", "n_trials": 10, "seed": 0,
              "params": {}},
        provider="hypergen",
    )  # fmt: skip
