"""The API of three functions: load a generator, predict parameters, initialise a network with them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hypergen.api.diversify import DIVERSIFICATIONS, last_weights
from hypergen.api.diversify import diversify as diversified
from hypergen.errors import GeneratorError, ParameterError, TraceError, UnknownNameError
from hypergen.functional import (
    BatchNormCalibration,
    Parameters,
    RidgeHead,
    apply_parameters,
    calibrate_batch_norm,
    expected_shapes,
    fit_ridge_head,
)
from hypergen.generators import Generator, load_generator
from hypergen.graph import trace
from hypergen.graph.inputs import example_arguments

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["InitializationReport", "initialize", "predict_params"]

HEADS = ("ridge",)


@dataclass(frozen=True)
class InitializationReport:
    """What :func:`initialize` did to a network.

    Attributes:
        model: The network's class.
        generator: The generator's class, and the name or path it was loaded by.
        predicted: Parameters that the generator wrote.
        kept: Parameters that no operation reads, or that are frozen under an adapter: they keep the network's values.
        tied: Alias name → the name that carries it.
        defaulted: Buffers that go with predicted parameters but keep the network's own values: the running statistics
            of batch norms that were not calibrated.
        values_predicted: Numbers that the generator wrote.
        values: Numbers that the parameters of the network hold.
        calibration: Batch norms whose running statistics were estimated, and from how many samples; None without data.
        head: The layer that was solved in closed form afterwards, and on how many samples; None if none was.
        diversified: How the predicted weights were made more diverse; None if they were not.
    """

    model: str
    generator: str
    predicted: tuple[str, ...]
    kept: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    defaulted: tuple[str, ...] = ()
    values_predicted: int = 0
    values: int = 0
    calibration: BatchNormCalibration | None = None
    head: RidgeHead | None = None
    diversified: str | None = None

    @property
    def share_of_parameters_predicted(self) -> float:
        """Numbers that the generator wrote, over all numbers in parameters."""
        return self.values_predicted / self.values

    @property
    def batch_norm(self) -> str:
        """One sentence on the running statistics of batch norms."""
        if self.calibration is not None and self.calibration.layers:
            layers, samples = self.calibration
            done = f"statistics of {layers} layer{'s' * (layers != 1)} estimated from {samples:,} samples"
            left = (
                f"; {len(self.defaulted)} buffers of layers that never ran keep the model's" if self.defaulted else ""
            )
            return done + left
        if not self.defaulted:
            return "no layer keeps running statistics"
        if self.calibration is not None:
            return "no layer ran on the data: the running statistics are still the model's own"
        return (
            "the running statistics are still the model's own, because no data was given: pass calibrate=batches, or "
            "train before evaluating"
        )

    def __rich__(self) -> Table:
        """The report as a table."""
        from rich.markup import escape
        from rich.table import Table

        count = f"{len(self.predicted)} parameter{'s' * (len(self.predicted) != 1)}"
        rows = {
            "predicted": f"{count}, {self.values_predicted:,} values: {self.share_of_parameters_predicted:.2%} of all",
            "kept": f"{_listed(self.kept)} (frozen, or read by no operation)" if self.kept else "",
            "diversified": self.diversified or "",
            "tied": _listed([f"{alias} = {name}" for alias, name in self.tied.items()]),
            "batch norm": self.batch_norm,
            "head": f"{self.head.name} solved in closed form on {self.head.samples:,} samples" if self.head else "",
        }
        table = Table(title=f"{self.model} initialised by {self.generator}", show_header=False, title_justify="left")
        for name, text in rows.items():
            if text:
                table.add_row(name, escape(text))
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, no_color=True, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())


def predict_params(
    model: nn.Module,
    generator: Generator | str | os.PathLike[str] = "digits-ghn",
    *,
    condition: Any = None,
    example_inputs: Any = None,
    differentiable: bool = False,
) -> Parameters:
    """Predict every parameter of ``model`` in one forward pass of ``generator``.

    The model is only read: it may live on the meta device.

    Args:
        model: The target network.
        generator: A generator, or a name or path for :func:`load_generator`.
        condition: What else the generator's parameters depend on.
        example_inputs: What ``model(...)`` is called with, when it cannot be worked out.
        differentiable: Keep the graph back to the generator's own parameters; by default there is none.

    Returns:
        A tensor per named parameter, with its shape and data type, on the generator's device; tied parameters once.
        Parameters that no operation of the model reads may be left out.

    Raises:
        ParameterError: The model has no parameters, complex, integer or lazy ones, or the prediction does not fit.
        TraceError: The model could not be run on example inputs; the message names the operation.
        UnknownNameError: No generator has this name; the message gives the nearest ones.
        CheckpointError: The generator was found and cannot be loaded.
    """
    if not isinstance(generator, Generator):
        generator = load_generator(generator)
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        parameters = generator.generate(model, condition, example_inputs=example_inputs)
        dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
        return {name: parameters[name].to(dtype) for name, dtype in dtypes.items() if name in parameters}


def initialize(
    model: nn.Module,
    generator: Generator | str | os.PathLike[str] = "digits-ghn",
    *,
    condition: Any = None,
    example_inputs: Any = None,
    diversify: str | None = None,
    diversify_strength: float | None = None,
    seed: int = 0,
    calibrate: Iterable[Any] | None = None,
    calibration_batches: int | None = 32,
    head: str | None = None,
    head_layer: str | None = None,
    num_classes: int | None = None,
) -> InitializationReport:
    """Write predicted parameters into ``model``, in place and all or nothing.

    Its parameters stay the objects that they are, so an optimiser may be built before or after. After any error the
    model is as it was. Training flags stay as they are.

    Args:
        model: The target network.
        generator: A generator, or a name or path for :func:`load_generator`.
        condition: What else the generator's parameters depend on.
        example_inputs: What ``model(...)`` is called with. Worked out from the model where it tells, else from the
            first batch of ``calibrate``.
        diversify: ``"noise"``, ``"orthogonal"`` or ``"variance"``: change what was predicted for every weight but the
            last layer's, for training to start from; see :func:`hypergen.api.diversify`. ``docs/starts.md`` has
            what each is worth.
        diversify_strength: Of its noise.
        seed: Of its noise.
        calibrate: A data loader, or a list of batches: (inputs, labels), inputs, or keyword arguments. The running
            statistics of batch norms are estimated from it; without it they stay those of the model, and the report
            says so.
        calibration_batches: Read at most this many batches for batch norms; None reads all.
        head: ``"ridge"`` solves the last linear layer in closed form on all of ``calibrate``, which then needs labels.
        head_layer: The name of the layer to solve, where it is not the last linear layer that runs.
        num_classes: Number of classes, where the data lack some.

    Returns:
        What was predicted, kept, tied, calibrated and solved; print it.

    Raises:
        ParameterError: As :func:`predict_params`; the data have no inputs or no labels; or the statistics or the head
            are not finite.
        GeneratorError: The arguments contradict each other.
        UnknownNameError: An unknown generator, kind of head, or layer.
        TraceError: The model could not be run on example inputs.
        CheckpointError: The generator cannot be loaded.
    """
    if head is not None and head not in HEADS:
        raise UnknownNameError("head", head, HEADS)
    if head is not None and calibrate is None:
        raise GeneratorError(
            f"head={head!r} solves the last layer on labelled data, and there is none: pass `calibrate=` with batches "
            "of (inputs, labels)."
        )
    if diversify is not None and diversify not in DIVERSIFICATIONS:
        raise UnknownNameError("diversification", diversify, DIVERSIFICATIONS)
    if diversify is None and diversify_strength is not None:
        raise GeneratorError(f'diversify_strength={diversify_strength} has no effect: pass `diversify="noise"` too.')
    if head is None and head_layer is not None:
        raise GeneratorError(f'head_layer={head_layer!r} has no effect without a head: pass `head="ridge"` too.')
    batches = None if calibrate is None else _reiterable(calibrate)
    if batches is not None and example_inputs is None:
        example_inputs = _first_inputs(model, batches)
    expected_shapes(model)  # Refuses lazy modules before their names are read.
    name = "" if isinstance(generator, Generator) else f"{os.fspath(generator)}, a "
    if not isinstance(generator, Generator):
        generator = load_generator(generator)
    parameters = predict_params(model, generator, condition=condition, example_inputs=example_inputs)
    if diversify is not None:
        last = last_weights(trace(model, example_inputs))
        own = dict(model.named_parameters())
        parameters = diversified(parameters, diversify, strength=diversify_strength, leave_out=last, own=own, seed=seed)

    calibration = solved = None
    statistics = _running_statistics(model)
    if batches is None:
        apply_parameters(model, parameters, partial=True)
    else:
        before = {buffer: tensor.clone() for buffer, tensor in statistics.items() if not tensor.is_meta}
        with _unchanged_after_errors(model):
            apply_parameters(model, parameters, partial=True)
            calibration = calibrate_batch_norm(model, batches, max_batches=calibration_batches)
            solved = _solve_head(model, batches, head_layer, num_classes) if head else None
        statistics = {buffer: tensor for buffer, tensor in statistics.items() if torch.equal(tensor, before[buffer])}

    own = dict(model.named_parameters())
    carrier = {id(parameter): name for name, parameter in own.items()}
    aliases = model.named_parameters(remove_duplicate=False)
    return InitializationReport(
        model=type(model).__name__,
        generator=f"{name}{type(generator).__name__}",
        predicted=tuple(parameters),
        kept=tuple(parameter for parameter in own if parameter not in parameters),
        tied={alias: carrier[id(parameter)] for alias, parameter in aliases if alias not in own},
        defaulted=tuple(statistics),
        values_predicted=sum(value.numel() for value in parameters.values()),
        values=sum(parameter.numel() for parameter in own.values()),
        calibration=calibration,
        head=solved,
        diversified=diversify,
    )


def _reiterable(batches: Iterable[Any]) -> Iterable[Any]:
    """Batches that can be read more than once; refuses what is a single batch, or no batches at all."""
    pair = isinstance(batches, tuple) and len(batches) > 0 and isinstance(batches[0], Tensor)
    if isinstance(batches, (Tensor, Mapping, str)) or pair:
        raise ParameterError(
            f"calibrate= takes several batches, and this {type(batches).__name__} is a single one: pass it in a list, "
            "`calibrate=[batch]`."
        )
    if not isinstance(batches, Iterable):
        raise ParameterError(
            f"calibrate= takes a data loader or a list of batches, not a {type(batches).__name__}. Of a "
            "LightningDataModule, pass `datamodule.train_dataloader()` after `datamodule.setup()`."
        )
    return list(batches) if isinstance(batches, Iterator) else batches


def _first_inputs(model: nn.Module, batches: Iterable[Any]) -> Any:
    """One sample of the data, where the model does not tell what it takes; None where it does."""
    try:
        example_arguments(model)
    except TraceError:
        pass
    else:
        return None
    batch = next(iter(batches), None)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if isinstance(inputs, Mapping):
        return {
            key: value[:1] if isinstance(value, Tensor) and value.dim() else value
            for key, value in inputs.items()
            if key not in ("labels", "label")
        }
    return inputs[:1] if isinstance(inputs, Tensor) and inputs.dim() else None


def _running_statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{kind}" if name else kind: tensor
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for kind, tensor in (("running_mean", module.running_mean), ("running_var", module.running_var))
        if tensor is not None
    }


def _solve_head(model: nn.Module, batches: Iterable[Any], head_layer: str | None, num_classes: int | None) -> RidgeHead:
    try:
        return fit_ridge_head(model, batches, head=head_layer, num_classes=num_classes)
    except ParameterError as error:
        # The function's own `head=` is not this API's.
        raise ParameterError(str(error).replace("`head=`", "`head_layer=`")) from error


@contextmanager
def _unchanged_after_errors(model: nn.Module) -> Iterator[None]:
    """Give the model its old parameters and buffers back, as the same objects, if anything goes wrong."""
    members = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta}
    saved = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for key, tensor in tensors.items():
                if not torch.equal(tensor, saved[key]):
                    tensor.copy_(saved[key])
        for module, parameters, buffers in members:
            now = {**module._parameters, **module._buffers}
            for name, value in (*parameters.items(), *buffers.items()):
                if now.get(name) is not value:
                    setattr(module, name, value)
        raise


def _listed(names: Iterable[str], shown: int = 10) -> str:
    names = list(names)
    more = len(names) - shown
    return ", ".join(islice(names, shown)) + (f" and {more} more" if more > 0 else "")
