"""An optimiser that now and then jumps ahead along the trajectory of training."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hypergen.errors import CheckpointError, ParameterError
from hypergen.metanets.nowcasting.nino_files import load_nino
from hypergen.metanets.nowcasting.nowcaster import NowcastNetwork, State, halvings, horizon_schedule

_KEY = "nowcaster"


class Jumps:
    """Keeps the history of a model's parameters and replaces them by a forecast after every period.

    What :class:`Nowcaster` and :class:`~hypergen.metanets.nowcasting.callback.NowcastingCallback` have in common, and
    their arguments.

    Args:
        model: What is trained. Parameters that need no gradients are read, and stay as they are.
        network: The nowcaster, or the path of a released NiNo checkpoint.
        period: Steps from one jump to the next.
        interval: Steps between two states of the history; None for ``period // network.context``.
        total_steps: Number of steps of the run: the horizon is far in its beginning and one interval in its end.
        horizon: Intervals that the first jump goes ahead; None for the network's farthest.
        power: How fast the schedule shrinks; see :func:`~hypergen.metanets.nowcasting.nowcaster.horizon_schedule`.
        example_inputs: What ``model(...)`` is called with, for nowcasters that need the model's graph.
        loss: The model's positive loss on the latest batch, called without gradients, by which each jump backtracks:
            from ``horizon``, whatever the schedule, halved until the loss is at most ``tolerance`` times what it was.
        tolerance: That factor. Farther ahead, a loss is often higher at first, then lower; but of a loss
            that cannot fall far, as a language model's, a factor of two is much (see ``experiment=nowcasting``).

    Attributes:
        steps: Steps of the optimiser so far.
        jumps: Jumps made.
        refused: Histories and forecasts that were not finite, and jumps that the loss forbade at every horizon; the
            parameters stayed as they were.

    Raises:
        CheckpointError: ``network`` is no released checkpoint.
        TraceError: The network needs a graph that the model does not have.
        ValueError: The history does not fit into the period, or a number is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        network: NowcastNetwork | str | Path,
        *,
        period: int = 1000,
        interval: int | None = None,
        total_steps: int = 10_000,
        horizon: int | None = None,
        power: float = 2.0,
        example_inputs: Any = None,
        loss: Callable[[], Any] | None = None,
        tolerance: float = 2.0,
    ) -> None:
        self.model, self.loss, self.tolerance = model, loss, tolerance
        self.network = network if isinstance(network, NowcastNetwork) else load_nino(network)
        context = self.network.context
        self.period, self.interval = period, period // context if interval is None else interval
        if not (self.interval >= 1 and self.interval * (context - 1) < period):
            raise ValueError(
                f"a history of {context} states, {self.interval} steps apart, does not fit into a period of {period} "
                f"steps; pass a period of at least {context} and an interval of at most {(period - 1) // (context - 1)}"
            )
        if total_steps < 1:
            raise ValueError(f"total_steps must be positive; got {total_steps}")
        if horizon is not None and not 1 <= horizon <= self.network.horizons:
            raise ValueError(f"horizon must be from 1 to the network's {self.network.horizons}; got {horizon}")
        self.schedule = horizon_schedule(horizon or self.network.horizons, total_steps // period, power)
        device = next((parameter.device for parameter in model.parameters()), None)
        self.forecast = self.network.to(device).bind(model, example_inputs)
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.history: deque[dict[str, Tensor]] = deque(maxlen=context)
        self.steps = self.jumps = self.refused = 0

    @torch.no_grad()
    def advance(self) -> bool:
        """Note a step of the optimiser; True if the parameters jumped after it.

        Raises:
            ParameterError: The model's parameters have other names or shapes than at first.
        """
        self.steps += 1
        # Counted back from the jump, so that its history ends with the state that it starts from.
        left = -self.steps % self.period
        if left % self.interval or left // self.interval >= self.network.context:
            return False
        parameters = self._parameters()
        self.history.append({name: parameter.detach().clone() for name, parameter in parameters.items()})
        if left:
            return False
        # Changes over a history are small: half precision would lose them.
        history = [
            {name: value[None].to(torch.promote_types(value.dtype, torch.float32)) for name, value in state.items()}
            for state in self.history
        ]
        self.history.clear()
        jumped = self._backtrack(parameters, history) if self.loss else self._jump(parameters, history)
        self.jumps += jumped
        self.refused += not jumped
        return jumped

    def _jump(
        self, parameters: Mapping[str, nn.Parameter], history: Sequence[State], horizon: int | None = None
    ) -> bool:
        """Set the parameters to a forecast, at the schedule's horizon if None; False if they had to stay."""
        if horizon is None:
            horizon = self.schedule[min(self.steps // self.period - 1, len(self.schedule) - 1)]
        predicted = self.forecast(history, horizon) if all(map(_finite, history)) else None
        if predicted is None or not _finite(predicted):
            whose = "history" if predicted is None else "forecast"
            warnings.warn(
                f"The {whose} after step {self.steps} has NaN or infinite values; the parameters stay as they are.",
                stacklevel=4,
            )
            return False
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                parameter.copy_(predicted[name][0])
        return True

    def _backtrack(self, parameters: Mapping[str, nn.Parameter], history: Sequence[State]) -> bool:
        """Jump as far as the loss allows; False if it allows no jump."""
        assert self.loss is not None
        before = {name: parameter.clone() for name, parameter in parameters.items()}
        limit = self.tolerance * float(self.loss())
        for horizon in halvings(self.schedule[0]):
            if not self._jump(parameters, history, horizon):
                break
            if float(self.loss()) <= limit:
                return True
        for name, parameter in parameters.items():
            parameter.copy_(before[name])
        return False

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run goes on from."""
        return {
            "period": self.period,
            "interval": self.interval,
            "steps": self.steps,
            "jumps": self.jumps,
            "refused": self.refused,
            "history": [dict(state) for state in self.history],
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of another run.

        Raises:
            CheckpointError: The period or interval is another, or entries are missing.
            ParameterError: A tensor of its history is missing or has another shape than the model's.
        """
        missing = {"period", "interval", "steps", "jumps", "refused", "history"} - state.keys()
        if missing:
            raise CheckpointError(f"This is no state of a nowcaster: it lacks {sorted(missing)}.")
        saved, own = (state["period"], state["interval"]), (self.period, self.interval)
        if saved != own:
            raise CheckpointError(
                f"The saved run had period {saved[0]} and interval {saved[1]}, this one has {own[0]} and {own[1]}; "
                "make the nowcaster with those of the saved run."
            )
        for held in state["history"]:
            _compare({name: value.shape for name, value in held.items()}, self.shapes, "The saved history")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; raises what :meth:`check` raises, and changes nothing then."""
        self.check(state)
        self.steps, self.jumps, self.refused = state["steps"], state["jumps"], state["refused"]
        devices = {name: parameter.device for name, parameter in self.model.named_parameters()}
        self.history.clear()
        for held in state["history"]:
            self.history.append({name: held[name].to(devices[name], copy=True) for name in self.shapes})

    def _parameters(self) -> dict[str, nn.Parameter]:
        parameters = dict(self.model.named_parameters())
        _compare({name: value.shape for name, value in parameters.items()}, self.shapes, "The model")
        return parameters


class Nowcaster(Optimizer):
    """Steps with an optimiser, and after every ``period`` steps lets a network predict where training leads.

    Knyazev et al., "Accelerating Training with Neuron Interaction and Nowcasting Networks", 2024, arXiv:2409.04434. The
    state of the optimiser, its moments above all, is left as it is. Takes an optimiser's place in any loop, with
    learning rate schedulers, closures and gradient scalers:

    >>> optimizer = Nowcaster(torch.optim.Adam(model.parameters()), model, "nino_mlp.pt")

    Args:
        optimizer: Makes the steps between two jumps.
        model: Whose parameters it optimises.
        network: The nowcaster, or the path of a released NiNo checkpoint.
        **settings: ``period``, ``interval``, ``total_steps``, ``horizon``, ``power``, ``example_inputs``, ``loss`` and
            ``tolerance`` of :class:`Jumps`.

    Attributes:
        optimizer: The optimiser.
        ahead: What jumps: its counts and history.

    Raises:
        ParameterError: The optimiser has parameters that the model does not have.
        CheckpointError: ``network`` is no released checkpoint.
        ValueError: Settings contradict each other.
    """

    def __init__(
        self, optimizer: Optimizer, model: nn.Module, network: NowcastNetwork | str | Path, **settings: Any
    ) -> None:
        known = {id(parameter) for parameter in model.parameters()}
        strange = sum(id(parameter) not in known for group in optimizer.param_groups for parameter in group["params"])
        if strange:
            raise ParameterError(
                f"{strange} parameters of the optimizer do not belong to the model; pass the model that it optimises."
            )
        self.ahead = Jumps(model, network, **settings)
        self.optimizer = optimizer
        # The very same groups: whoever sets a learning rate here sets the optimiser's.
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """A step of the optimiser, and a jump where it is due; returns what the optimiser returns."""
        loss = self.optimizer.step(closure)
        self.ahead.advance()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimise further parameters of the model."""
        if not hasattr(self, "param_groups") or self.param_groups is not self.optimizer.param_groups:
            super().add_param_group(param_group)  # While this is being made.
        else:
            self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's, with an entry for the history and the counts."""
        return {**self.optimizer.state_dict(), _KEY: self.ahead.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on exactly from what :meth:`state_dict` returned.

        Raises:
            CheckpointError: It is not of a nowcaster, or of one with other settings; nothing is changed then.
            ParameterError: It is of another model.
        """
        if _KEY not in state_dict:
            raise CheckpointError(
                "This is the state of an optimizer without a nowcaster; load it into `nowcaster.optimizer`, from where "
                "a new history starts."
            )
        self.ahead.check(state_dict[_KEY])
        self.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != _KEY})
        self.ahead.load_state_dict(state_dict[_KEY])
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state


def _finite(state: State) -> bool:
    return all(bool(value.isfinite().all()) for value in state.values())


def _compare(found: Mapping[str, torch.Size], expected: Mapping[str, torch.Size], whose: str) -> None:
    wrong = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    if wrong:
        name = wrong[0]
        now, then = (tuple(each[name]) if name in each else None for each in (found, expected))
        raise ParameterError(
            f"{whose} does not have the parameters that the nowcaster was made for: {name!r} has shape {now}, expected "
            f"{then} ({len(wrong)} differ). Make a new Nowcaster for this model."
        )
