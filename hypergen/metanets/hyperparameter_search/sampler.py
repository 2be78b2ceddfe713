"""Hyperparameter search that reads weights, for Optuna: a sampler and a pruner that share one forecast.

Forecasting Model Search (Mehta, Lorraine, Masson, Arunachalam, Bhat, Lucas, Zachariah, 2024, arXiv:2406.18630): after
each block of training, a deep-kernel Gaussian process forecasts what one more block would make of every training that
was stopped and of new settings; the one with the highest expected improvement is trained, as in DyHPO (Wistuba, Kadra,
Grabocka, 2022, arXiv:2202.09774).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError, missing_extra
from hypergen.metanets.hyperparameter_search.deep_kernel import DeepKernelForecast, Trainings

try:
    import optuna

    # Samplers outside of Optuna use it, too: a setting as numbers from 0 to 1, and back.
    from optuna._transform import _SearchSpaceTransform
    from optuna.study import StudyDirection
    from optuna.trial import TrialState
except ImportError as error:
    raise missing_extra("A search", str(error.name), "search") from error

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_ATTRIBUTE = "hypergen:weights:"


def report_weights(trial: optuna.Trial, model: nn.Module, step: int, features: Callable[[nn.Module], Tensor]) -> None:
    """Tell a study about a trial's weights after a block of training, before ``trial.report`` of the same step.

    The study keeps the features, a few numbers, and not the weights.

    Args:
        trial: Trial of the study.
        model: The network; only read.
        step: The same as for ``trial.report``.
        features: From the network to a vector, as
            :class:`~hypergen.metanets.hyperparameter_search.weight_features.WeightFeatures`; the same in all of a
            study.

    Raises:
        HypergenError: A feature is not a finite number.
    """
    vector = features(model).detach().flatten().tolist()
    if not all(math.isfinite(value) for value in vector):
        raise HypergenError(f"Features of trial {trial.number}'s weights at step {step} are not finite: {vector[:8]} …")
    trial.set_user_attr(f"{_ATTRIBUTE}{step}", vector)


def earlier_step(trial: optuna.Trial) -> int | None:
    """Find the last step that a stopped trial of the same parameters reported, to go on from its checkpoint.

    Args:
        trial: Whose parameters have all been suggested.

    Returns:
        The step, or None if there was no such trial.
    """
    steps = [
        max(other.intermediate_values)
        for other in trial.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        if other.params == trial.params and other.intermediate_values
    ]
    return max(steps, default=None)


class WeightAwareSampler(optuna.samplers.BaseSampler):
    """Chooses what to train one more block: new settings, or a training that was stopped.

    With :class:`WeightAwarePruner`, this is the whole of a search. A trial whose parameters were tried and stopped
    before is meant to go on where it was; :func:`earlier_step` tells whether.

    Args:
        blocks: How often a complete training reports.
        startup: Random settings that are tried, each for one block, before forecasts are made.
        candidates: New settings that are drawn to choose from.
        refit_every: Reports between two fits of the kernel; in between, it only takes new values in.
        fit_steps: Number of steps of Adam, at each fit; five times as many at the first.
        resume: Whether stopped trainings are taken up again.
        use_curve: Whether learning curves are read.
        seed: Random seed of everything that is drawn.

    Raises:
        HypergenError: A number is impossible.
    """

    def __init__(
        self,
        blocks: int,
        *,
        startup: int = 16,
        candidates: int = 200,
        refit_every: int = 5,
        fit_steps: int = 30,
        resume: bool = True,
        use_curve: bool = True,
        seed: int = 0,
    ) -> None:
        if blocks < 1 or startup < 2 or candidates < 1 or refit_every < 1:
            raise HypergenError(
                "A search takes at least 2 settings to start from, and 1 block, candidate and report between fits; got "
                f"startup={startup}, blocks={blocks}, candidates={candidates}, refit_every={refit_every}."
            )
        self.blocks, self.startup, self.candidates = blocks, startup, candidates
        self.refit_every, self.fit_steps, self.resume = refit_every, fit_steps, resume
        self.use_curve, self.seed = use_curve, seed
        self._random = torch.Generator().manual_seed(seed)
        self._independent = optuna.samplers.RandomSampler(seed)
        self._forecast: DeepKernelForecast | None = None
        self._fitted = 0
        self._chosen: dict[str, Any] | None = None

    def reseed_rng(self) -> None:
        """Draw differently from now on."""
        self._random.seed()
        self._independent.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What all trials so far have been asked for."""
        space = optuna.search_space.IntersectionSearchSpace(include_pruned=True).calculate(study)
        return _varied(space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters with the highest expected improvement, unless a pruner has asked for them already."""
        self._raise_error_if_multi_objective(study)
        if not search_space:
            return {}
        chosen, self._chosen = self._chosen, None
        if chosen is None or set(chosen) != set(search_space):
            chosen = self._choose(study, search_space)
        return chosen

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for parameters that not all trials have."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def stops(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to train something else instead of another block of a trial."""
        space = _varied(trial.distributions)
        if not space or not trial.intermediate_values:
            return False
        own = {name: trial.params[name] for name in space}
        trainings = _trainings(study, space)
        if len(trainings[_key(own)].values) >= self.blocks:
            return False
        chosen = self._choose(study, space, _key(own))
        if chosen == own:
            return False
        self._chosen = chosen
        return True

    def _choose(self, study: optuna.Study, space: dict[str, BaseDistribution], current: str = "") -> dict[str, Any]:
        """The parameters with the highest expected improvement by their next block."""
        transform = _SearchSpaceTransform(space, transform_0_1=True)
        trainings = _trainings(study, space)
        fresh = [drawn for key, drawn in self._draw(transform).items() if key not in trainings]
        begun = {key: training for key, training in trainings.items() if training.values}
        if len(trainings) > self.startup and not begun:
            raise HypergenError("No trial of this study has reported anything; call trial.report after each block.")
        options = [
            training
            for key, training in begun.items()
            if len(training.values) < self.blocks and (key == current or (self.resume and not training.running))
        ]
        if len(begun) < self.startup and fresh:
            return fresh[0].parameters
        options += fresh
        if not options:  # Everything that there is has been trained.
            return next(iter(begun.values())).parameters
        forecast = self._learn(transform, list(begun.values()))
        mean, deviation = forecast.predict(self._rows(transform, [(option, len(option.values)) for option in options]))
        best = _best(list(begun.values()), self.blocks)[[len(option.values) for option in options]]
        return options[int(log_expected_improvement(mean, deviation, best).argmax())].parameters

    def _draw(self, transform: _SearchSpaceTransform) -> dict[str, _Training]:
        """New settings, each once."""
        low, high = torch.from_numpy(transform.bounds).T
        share = torch.rand(self.candidates, len(low), generator=self._random, dtype=torch.float64)
        drawn = [transform.untransform(point) for point in (low + (high - low) * share).numpy()]
        return {_key(parameters): _Training(parameters) for parameters in drawn}

    def _learn(self, transform: _SearchSpaceTransform, begun: Sequence[_Training]) -> DeepKernelForecast:
        """Let the forecast learn from every block of every training."""
        before = [(training, number) for training in begun for number in range(len(training.values))]
        values = torch.tensor([training.curve()[number] for training, number in before], dtype=torch.float64)
        sizes = {len(found) for training in begun for found in training.weights.values()}
        if len(sizes) > 1:
            raise HypergenError(f"All weights of a study need features of one kind; there are some of lengths {sizes}.")
        features = max(sizes, default=0)
        hyperparameters = len(transform.bounds)
        forecast = self._forecast
        if forecast is None or (forecast.hyperparameters, forecast.weights) != (hyperparameters, features):
            forecast = DeepKernelForecast(hyperparameters, self.blocks, features, curve=self.use_curve, seed=self.seed)
            self._forecast = forecast
        rows = self._rows(transform, before)
        if not forecast.fitted or len(values) >= self._fitted + self.refit_every:
            forecast.fit(rows, values, steps=self.fit_steps * (1 if forecast.fitted else 5))
            self._fitted = len(values)
        else:
            forecast.condition(rows, values)
        return forecast

    def _rows(self, transform: _SearchSpaceTransform, trainings: Sequence[tuple[_Training, int]]) -> Trainings:
        """Trainings as they were after so many blocks."""
        assert self._forecast is not None
        settings = []
        curves = torch.full((len(trainings), self.blocks), math.nan, dtype=torch.float64)
        weights = torch.full((len(trainings), self._forecast.weights), math.nan, dtype=torch.float64)
        for row, (training, number) in enumerate(trainings):
            if training.encoded is None:
                training.encoded = torch.from_numpy(transform.transform(training.parameters))
            settings.append(training.encoded)
            if number:
                curve = training.curve()[:number][-self.blocks :]
                curves[row, : len(curve)] = torch.tensor(curve, dtype=torch.float64)
                found = training.weights.get(training.steps()[number - 1])
                if found is not None:
                    weights[row] = torch.tensor(found, dtype=torch.float64)
        return Trainings(torch.stack(settings), curves, weights)


class WeightAwarePruner(optuna.pruners.BasePruner):
    """Stops a trial when training something else promises more.

    Args:
        sampler: The study's sampler, which then says what to train instead.
    """

    def __init__(self, sampler: WeightAwareSampler) -> None:
        self.sampler = sampler

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop a trial; Optuna calls it for ``trial.should_prune()``."""
        return self.sampler.stops(study, trial)


def log_expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor) -> Tensor:
    """The logarithm of how much normally distributed values are above the best one on average.

    Args:
        mean: [N].
        deviation: [N], positive.
        best: [N].

    Returns:
        [N]; also tells apart options whose improvement is next to impossible.
    """
    z = (mean - best) / deviation
    improvement = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi) + z * torch.special.ndtr(z)
    # Far below, the two terms cancel; φ(z) / z² is what their sum goes to.
    far = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - 2 * z.abs().clamp_min(1).log()
    return torch.where(z < -5, far, improvement.clamp_min(1e-30).log()) + deviation.log()


@dataclass
class _Training:
    """All trials of the same parameters: one training, with pauses. Higher values are better."""

    parameters: dict[str, Any]
    values: dict[int, float] = field(default_factory=dict)
    weights: dict[int, Sequence[float]] = field(default_factory=dict)
    running: bool = False
    encoded: Tensor | None = None
    _curve: list[float] | None = None

    def steps(self) -> list[int]:
        """Those that were reported, in order."""
        return sorted(self.values)

    def curve(self) -> list[float]:
        """Values in the order of steps; one that is not finite counts as the worst there was."""
        if self._curve is None:
            values = [self.values[step] for step in self.steps()]
            worst = min((value for value in values if math.isfinite(value)), default=0.0)
            self._curve = [value if math.isfinite(value) else worst for value in values]
        return self._curve


def _trainings(study: optuna.Study, space: Mapping[str, Any]) -> dict[str, _Training]:
    """What the study's trials amount to, in the order of their first ones."""
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
    found: dict[str, _Training] = {}
    for trial in study.get_trials(deepcopy=False):
        if not all(name in trial.params for name in space):
            continue
        own = {name: trial.params[name] for name in space}
        training = found.setdefault(_key(own), _Training(own))
        training.values |= {step: sign * value for step, value in trial.intermediate_values.items()}
        training.running = trial.state == TrialState.RUNNING
        for name, value in trial.user_attrs.items():
            if name.startswith(_ATTRIBUTE):
                training.weights[int(name.removeprefix(_ATTRIBUTE))] = value
    return found


def _best(begun: Sequence[_Training], blocks: int) -> Tensor:
    """The best value [blocks] after each number of blocks; the best of all where nobody got that far."""
    best = max(max(training.curve()) for training in begun)
    after = [[found.curve()[block] for found in begun if len(found.values) > block] for block in range(blocks)]
    return torch.tensor([max(values, default=best) for values in after], dtype=torch.float64)


def _varied(space: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """Parameters that there is a choice of, in one order whoever asks for them."""
    return {name: distribution for name, distribution in sorted(space.items()) if not distribution.single()}


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True, default=str)
