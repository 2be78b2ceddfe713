"""A Gaussian process that forecasts how training goes on, from settings, learning curve and weights.

Forecasting Model Search (Mehta, Lorraine, Masson, Arunachalam, Bhat, Lucas, Zachariah: Improving Hyperparameter
Optimization with Checkpointed Model Weights, 2024, arXiv:2406.18630), which adds features of the weights to DyHPO
(Wistuba, Kadra, Grabocka: Supervising the Multi-Fidelity Race of Hyperparameter Configurations, 2022,
arXiv:2202.09774): a kernel on what networks make of all of it (Wilson, Hu, Salakhutdinov, Xing: Deep Kernel Learning,
2015, arXiv:1511.02222).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError, missing_extra

try:
    import gpytorch
except ImportError as error:
    raise missing_extra("A deep kernel", str(error.name), "search") from error

# Standard deviations: else the weights of networks that nearly diverged would be all that components tell.
_FARTHEST = 2.0


@dataclass(frozen=True)
class Trainings:
    """Trainings that stopped somewhere, each about to train one more block.

    Args:
        settings: [N, hyperparameters], each from 0 to 1.
        curves: [N, blocks]: the value after each block so far, NaN after that.
        weights: [N, features] of the latest weights, NaN where they are not known; no features, if nobody reports any.
    """

    settings: Tensor
    curves: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.settings)


class DeepKernelForecast:
    """Predicts the value after the next block.

    The process models the change over the latest value, or the value itself where there is none yet:
    k = s₁² Matérn₅⸝₂([settings, progress, φ(curve)]) + s₂² Matérn₅⸝₂(C · weights), with a length scale for each
    dimension. φ is a convolution that is learned with the process by its marginal likelihood; C are the principal
    components of the features of the weights that were seen. A perceptron in their place, as in the paper, explains the
    few values of one search by anything, and forecasts worse than without weights.

    Args:
        hyperparameters: Columns of settings.
        blocks: Longest curve.
        weights: Columns of weights' features; 0 if there are none.
        curve: Whether curves are read.
        hidden: Width of φ.
        features: Its outputs.
        components: Principal components of weights' features.
        seed: Random seed of their initialisation.

    Shapes:
        - **input:** :class:`Trainings` of N trainings
        - **output:** mean [N] and standard deviation [N]
    """

    def __init__(
        self,
        hyperparameters: int,
        blocks: int,
        weights: int = 0,
        *,
        curve: bool = True,
        hidden: int = 16,
        features: int = 3,
        components: int = 3,
        seed: int = 0,
    ) -> None:
        self.hyperparameters, self.blocks, self.weights = hyperparameters, blocks, weights
        self.components = min(components, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._encoder = _Encoder([hyperparameters, blocks, blocks, self.components], curve, hidden, features)
        self._process: _Process | None = None
        self._first = 0.0

    @property
    def fitted(self) -> bool:
        """Whether anything has been learned."""
        return self._process is not None

    def fit(self, trainings: Trainings, values: Tensor, *, steps: int = 50, learning_rate: float = 0.02) -> None:
        """Learn from values after a block; later calls go on from the earlier ones' networks and kernel.

        Args:
            trainings: Before the block.
            values: [N], after it.
            steps: Number of steps of Adam on the marginal likelihood.
            learning_rate: Learning rate of Adam.

        Raises:
            HypergenError: There is nothing to learn from, or values are not finite.
        """
        _check(values)
        begun = trainings.curves.isfinite().any(1)
        self._first = float(values[~begun].mean()) if not begun.all() else float(values.mean())
        changes = values.double() - self._latest(trainings)
        self._changes = changes.mean(), changes.std(correction=0) + 1e-6
        self._scale, self._directions = _principal(trainings.weights.double(), self.components)
        process = self._condition(trainings, values)
        process.train()
        process.likelihood.train()
        marginal = gpytorch.mlls.ExactMarginalLogLikelihood(process.likelihood, process)
        optimizer = torch.optim.Adam(process.parameters(), learning_rate)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -marginal(process(*process.train_inputs), process.train_targets)
            loss.backward()
            optimizer.step()

    def condition(self, trainings: Trainings, values: Tensor) -> None:
        """Take values in without learning anything about the kernel.

        Args:
            trainings: Before a block.
            values: [N], after it.

        Raises:
            HypergenError: There are no values, values are not finite, or nothing has been learned yet.
        """
        self._known()
        _check(values)
        self._condition(trainings, values)

    @torch.no_grad()
    def predict(self, trainings: Trainings) -> tuple[Tensor, Tensor]:
        """Forecast the values after the next block.

        Returns:
            Mean [N] and standard deviation [N] of each, in the values' own units.

        Raises:
            HypergenError: Nothing has been learned yet.
        """
        with gpytorch.settings.debug(False):  # Else it warns of inputs that it has learned from.
            forecast = self._known().eval()(self._inputs(trainings))
        centre, scale = self._changes
        deviation = forecast.variance.clamp_min(1e-12).sqrt() * scale
        return forecast.mean * scale + centre + self._latest(trainings), deviation

    def _known(self) -> _Process:
        if self._process is None:
            raise HypergenError("Nothing has been learned yet, so nothing can be forecast; call fit first.")
        return self._process

    def _condition(self, trainings: Trainings, values: Tensor) -> _Process:
        centre, scale = self._changes
        inputs, targets = self._inputs(trainings), (values.double() - self._latest(trainings) - centre) / scale
        if self._process is None:
            self._process = _Process(inputs, targets, self._encoder)
        else:
            self._process.set_train_data(inputs, targets, strict=False)
        return self._process

    def _latest(self, trainings: Trainings) -> Tensor:
        """The latest value [N]; where there is none yet, what others had after their first block on average."""
        curves = trainings.curves.double()
        number = curves.isfinite().sum(1, keepdim=True)
        latest = curves.gather(1, (number - 1).clamp_min(0)).squeeze(1)
        return latest.nan_to_num(self._first)

    def _inputs(self, trainings: Trainings) -> Tensor:
        """Everything in one row per training, as gpytorch takes it, without NaN, which it cannot compare."""
        curves = trainings.curves.double()
        weights = _standard(trainings.weights.double(), *self._scale) @ self._directions
        return torch.cat([trainings.settings.double(), curves.nan_to_num(), curves.isfinite(), weights], 1)


class _Encoder(nn.Module):
    """From a row to what the kernel compares: first what settings and curves tell, then what weights do."""

    def __init__(self, columns: list[int], curve: bool, hidden: int, features: int) -> None:
        super().__init__()
        settings, _, _, weights = self.columns = columns
        self.curve = nn.Sequential(nn.Conv1d(2, hidden, 3, padding=1), nn.ReLU()) if curve else None
        self.head = nn.Linear(2 * hidden, features) if curve else None
        self.features = settings + 1 + (features if curve else 0), weights

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [N, columns] to [N, features]."""
        settings, curve, measured, weights = rows.split(self.columns, -1)
        parts = [settings, measured.mean(-1, keepdim=True)]
        if self.curve is not None and self.head is not None:
            mapped = self.curve(torch.stack([curve, measured], 1))  # [N, hidden, blocks]
            parts.append(self.head(torch.cat([mapped.mean(2), mapped.amax(2)], 1)))
        return torch.cat([*parts, weights], -1)


class _Process(gpytorch.models.ExactGP):  # type: ignore[misc]
    def __init__(self, inputs: Tensor, targets: Tensor, encoder: _Encoder) -> None:
        likelihood = gpytorch.likelihoods.GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(1e-4))
        super().__init__(inputs, targets, likelihood)
        self.encoder, self.mean = encoder, gpytorch.means.ConstantMean()
        rest, weights = encoder.features
        self.kernel = _matern(range(rest), 0.7)
        if weights:
            self.kernel = self.kernel + _matern(range(rest, rest + weights), 0.05)
        self.double()
        likelihood.noise = 0.05

    def forward(self, rows: Tensor) -> gpytorch.distributions.MultivariateNormal:
        features = self.encoder(rows)
        return gpytorch.distributions.MultivariateNormal(self.mean(features), self.kernel(features))


def _matern(dimensions: range, variance: float) -> gpytorch.kernels.Kernel:
    base = gpytorch.kernels.MaternKernel(2.5, ard_num_dims=len(dimensions), active_dims=tuple(dimensions))
    kernel = gpytorch.kernels.ScaleKernel(base)
    kernel.outputscale = variance
    return kernel


def _check(values: Tensor) -> None:
    if not len(values) or not values.isfinite().all():
        raise HypergenError(f"A forecast needs values that are finite numbers; got {values.tolist()[:10]}.")


def _principal(values: Tensor, components: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Mean and deviation of each feature, and directions [features, components]."""
    known = values[values.isfinite().all(1)]
    if len(known) < 2 or not components:
        scale = values.new_zeros(values.shape[1]), values.new_ones(values.shape[1])
        return scale, values.new_zeros(values.shape[1], components)
    scale = known.mean(0), known.std(0) + 1e-6
    _, _, directions = torch.linalg.svd(_standard(known, *scale), full_matrices=False)
    found = directions[:components].T
    # Fewer networks than components leave the others without a direction.
    return scale, 0.1 * nn.functional.pad(found, (0, components - found.shape[1]))


def _standard(values: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return ((values - centre) / scale).clamp(-_FARTHEST, _FARTHEST).nan_to_num()
