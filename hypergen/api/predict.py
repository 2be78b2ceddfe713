"""The API of three functions: load a generator, predict parameters, initialise a network with them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, overload

import torch
from torch import Tensor, nn

from hypergen.api.bound_scale import bound_activations
from hypergen.api.comparison import FALLBACKS, Comparison, Start, compare_starts, is_worse
from hypergen.api.diversify import DIVERSIFICATIONS, last_weights
from hypergen.api.diversify import diversify as diversified
from hypergen.api.donor import Donor, initialize_from_donor
from hypergen.api.preparation import Preparation
from hypergen.api.probe import Arguments, probe_arguments, reason_against_running
from hypergen.api.report import InitializationReport
from hypergen.errors import GeneratorError, ParameterError, TraceError, UnknownNameError
from hypergen.functional import (
    Parameters,
    apply_parameters,
    expected_shapes,
)
from hypergen.functional.arguments import check_arguments
from hypergen.functional.snapshot import unchanged_after_errors
from hypergen.generators import Generator, load_generator
from hypergen.generators.donor import DonorMapping
from hypergen.generators.generator import check_predictable
from hypergen.graph import ComputationalGraph, trace
from hypergen.graph.inputs import example_arguments
from hypergen.scaling.report import ScalingReport
from hypergen.scaling.rules import Rule, initialize_scaled

__all__ = ["InitializationReport", "initialize", "predict_params"]

GeneratorOrName = Generator | str | os.PathLike[str]
_MOST_BATCHES = 200  # Of data that do not tell how long they are.
HEADS = ("ridge", "predicted")
SCALES = ("auto", "bounded", "predicted")


def predict_params(
    model: nn.Module,
    generator: GeneratorOrName = "digits-ghn",
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
        return _predicted(model, model, generator, condition, example_inputs)


@overload
def initialize(model: nn.Module, *, donor: Donor, **options: Any) -> DonorMapping: ...
@overload
def initialize(model: nn.Module, *, scaling: Rule, base: nn.Module, **options: Any) -> ScalingReport: ...
@overload
def initialize(model: nn.Module, generator: GeneratorOrName = ..., **options: Any) -> InitializationReport: ...
def initialize(
    model: nn.Module,
    generator: GeneratorOrName = "digits-ghn",
    *,
    donor: Donor | None = None,
    scaling: Rule | None = None,
    base: nn.Module | None = None,
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
    overwrite_frozen: bool = False,
    fallback: str = "default",
    scale: str = "auto",
    **donor_options: Any,
) -> InitializationReport | DonorMapping | ScalingReport:
    """Write predicted parameters into ``model``, in place and all or nothing.

    Its parameters stay the objects that they are, so an optimiser may be built before or after. After any error the
    model is as it was. Training flags stay as they are.

    The predicted start is compared with the network's own: by the loss on ``calibrate`` where it has labels, else by
    the scale of the activations on example inputs. The report says which is better.

    Args:
        model: The target network.
        generator: A generator, or a name or path for :func:`load_generator`.
        donor: A trained network, of any width and depth, to take parameters from in the place of a generator: a
            module, a state dict, a file or a folder.
        scaling: Scale rule, such as ``"mup"``, that the network's own freshly drawn values are brought to in the place
            of a generator; see :func:`hypergen.scaling.scaling_rules`. The report makes the optimiser's groups.
        base: The network of the same constructor that learning rates are tuned on, for ``scaling``.
        condition: What else the generator's parameters depend on.
        example_inputs: What ``model(...)`` is called with. Worked out from the model where it tells, else from the
            first batch of ``calibrate``; images of the size that they have there.
        diversify: ``"noise"``, ``"orthogonal"`` or ``"variance"``: change what was predicted for every weight but the
            last layer's, for training to start from; see :func:`hypergen.api.diversify`. The page
            ``docs/results/initialisations.md`` has
            what each is worth.
        diversify_strength: Strength of its noise.
        seed: Random seed of its noise.
        calibrate: A data loader, or a list of batches: (inputs, labels), inputs, or keyword arguments. The running
            statistics of batch norms are estimated from it; without it they stay those of the model, and the report
            says so.
            Data without a length, which may never end, are read for 200 batches.
        calibration_batches: Read at most this many batches for batch norms; None reads all.
        head: ``"ridge"`` solves the last linear layer in closed form on all of ``calibrate``, which then needs labels;
            ``"predicted"`` leaves what the generator wrote; None is ``"predicted"``, but for generators that write
            bodies (``readout="ridge"``), whose head is solved wherever there are labels to solve it on.
        head_layer: The name of the layer to solve, where it is not the last linear layer that runs.
        num_classes: Number of classes, where the data lack some.
        overwrite_frozen: Whether parameters with ``requires_grad=False`` are written, too; by default they keep their
            values, as do the statistics of batch norms whose parameters are all frozen.
        fallback: What to do where the network's own start is better: ``"default"`` leaves the network's own values
            (calibrated, and with a solved head, as asked), ``"never"`` writes the prediction all the same, ``"error"``
            raises.
        scale: What is done about the size of activations, where parameters are predicted from the graph: ``"bounded"``
            scales what was predicted until every activation on example inputs is within a factor of 4 of the network's
            own start; ``"predicted"`` leaves it; ``"auto"`` bounds it where the prediction is worse without, by its
            loss, or, without labels, by activations a thousand times as large; and, without labels, where the network
            is unlike those that the generator was trained on.
        **donor_options: How a donor is mapped: ``donor_model``, ``width``, ``depth``, ``match``,
            ``donor_inputs``, ``verify``; see :func:`hypergen.api.donor.initialize_from_donor`.

    Returns:
        What was predicted, kept, tied, calibrated and solved; print it.

    Raises:
        ParameterError: As :func:`predict_params`; every parameter is frozen; the data are empty, or have no inputs or
            no labels; the network is not finite at either start; or, with ``fallback="error"``, its own is better.
        TypeError: An argument is of another type.
        ValueError: A number is out of range.
        GeneratorError: The arguments contradict each other, or the generator takes no condition.
        UnknownNameError: An unknown generator, kind of head, or layer.
        TraceError: The model could not be run on example inputs.
        CheckpointError: The generator cannot be loaded.
    """
    options = {
        "diversify": diversify,
        "diversify_strength": diversify_strength,
        "seed": seed,
        "calibration_batches": calibration_batches,
        "head": head,
        "head_layer": head_layer,
        "num_classes": num_classes,
        "overwrite_frozen": overwrite_frozen,
        "fallback": fallback,
        "scale": scale,
    }
    check_arguments(initialize, options)
    expected_shapes(model)  # Refuses lazy modules before their names are read, and what is no module.
    if scaling is not None or base is not None:
        if scaling is None or base is None or donor is not None or donor_options:
            raise GeneratorError(
                "A scale rule takes `scaling=` (its name) and `base=` (the network that learning rates are tuned on), "
                "and no donor."
            )
        return initialize_scaled(model, base, scaling, example_inputs=example_inputs)
    if donor is not None:
        for option in ("condition", "diversify", "head_layer", "num_classes"):
            if locals()[option] is not None:
                raise GeneratorError(f"{option}= belongs to generators; a donor takes none. Leave it out.")
        return initialize_from_donor(
            model,
            donor,
            example_inputs=example_inputs,
            calibrate=calibrate,
            calibration_batches=calibration_batches,
            head=head,
            overwrite_frozen=overwrite_frozen,
            seed=seed,
            **donor_options,
        )
    if donor_options:
        raise TypeError(f"initialize() takes no {', '.join(map(repr, donor_options))} without `donor=`.")
    if head is not None and head not in HEADS:
        raise UnknownNameError("head", head, HEADS)
    if head == "ridge" and calibrate is None:
        raise GeneratorError(
            f"head={head!r} solves the last layer on labelled data, and there is none: pass `calibrate=` with batches "
            "of (inputs, labels)."
        )
    if diversify is not None and diversify not in DIVERSIFICATIONS:
        raise UnknownNameError("diversification", diversify, DIVERSIFICATIONS)
    if diversify is None and diversify_strength is not None:
        raise GeneratorError(f'diversify_strength={diversify_strength} has no effect: pass `diversify="noise"` too.')
    if head != "ridge" and head_layer is not None:
        raise GeneratorError(f'head_layer={head_layer!r} has no effect without a head: pass `head="ridge"` too.')
    if fallback not in FALLBACKS:
        raise UnknownNameError("fallback", fallback, FALLBACKS)
    if scale not in SCALES:
        raise UnknownNameError("scale", scale, SCALES)
    batches = None if calibrate is None else _reiterable(calibrate)
    if batches is not None and example_inputs is None:
        example_inputs = _first_inputs(model, batches)
    own = dict(model.named_parameters())
    frozen = () if overwrite_frozen else tuple(n for n, parameter in own.items() if not parameter.requires_grad)
    _refuse_all_frozen(model, own, frozen)
    name = "" if isinstance(generator, Generator) else f"{generator}, a "
    if not isinstance(generator, Generator):
        generator = load_generator(generator)
    check_predictable(model)
    graph = trace(model, example_inputs) if generator.reads_graphs or diversify is not None else None
    source = graph if graph is not None and generator.reads_graphs else model
    unlike = () if graph is None else generator.out_of_distribution(graph)
    with torch.no_grad():
        parameters = _predicted(model, source, generator, condition, example_inputs)
    parameters = {key: value for key, value in parameters.items() if key not in frozen}
    if diversify is not None and graph is not None:
        parameters = diversified(
            parameters, diversify, strength=diversify_strength, leave_out=last_weights(graph), own=own, seed=seed
        )

    readout = head or ("ridge_where_labelled" if generator.readout == "ridge" else "predicted")
    preparation = Preparation(model, batches, calibration_batches, readout, head_layer, num_classes, frozen)
    reason = reason_against_running(model)
    with unchanged_after_errors(model) as restore:
        arguments: Arguments | None = None
        default, comparison = Start(), None
        if not reason:
            try:
                arguments = probe_arguments(model, example_inputs, None if batches is None else _first(batches))
                default = preparation.measure(arguments)
            except ParameterError as error:
                default = Start(error=str(error))
            except Exception as error:  # what the network does on inputs that were made up is no reason to fail
                if batches is not None:
                    raise
                arguments, reason = None, f"it could not be run on example inputs ({type(error).__name__}: {error})"
            restore()
        may_scale = scale != "predicted" and arguments is not None and generator.reads_graphs and default.usable
        saved = {key: own[key].detach().clone() for key in parameters} if may_scale else {}
        apply_parameters(model, parameters, partial=True)
        rescaled: tuple[str, ...] = ()
        # Labels tell better than distance; without them nothing else speaks for the size of what is predicted far away.
        if may_scale and arguments is not None and (scale == "bounded" or unlike and default.loss is None):
            rescaled = bound_activations(model, saved, parameters, arguments)
        predicted, failure = preparation.attempt(arguments)
        if may_scale and arguments is not None and not rescaled and is_worse(predicted, default):
            restore()
            apply_parameters(model, parameters, partial=True)
            rescaled = bound_activations(model, saved, parameters, arguments)
            predicted, failure = preparation.attempt(arguments)
        if failure is not None and (reason or default.error or fallback == "never"):
            raise failure
        if reason:
            comparison = Comparison(default, predicted, "", reason)
        elif fallback != "never" or default.usable or predicted.usable:
            comparison = compare_starts(default, predicted)
        worse = comparison is not None and comparison.better == "default"
        if worse and fallback == "error":
            assert comparison is not None
            raise ParameterError(
                f"{type(model).__name__} starts worse from what {type(generator).__name__} predicts than from its own "
                f'values: {comparison.reason}. Leave its own values, `fallback="default"`, or pass `fallback="never"`.'
            )
        if fell_back := worse and fallback == "default":
            restore()
            preparation.run()
            parameters = {}
    aliases = model.named_parameters(remove_duplicate=False)
    carrier = {id(parameter): key for key, parameter in model.named_parameters()}
    return InitializationReport(
        model=type(model).__name__,
        generator=f"{name}{type(generator).__name__}",
        predicted=tuple(parameters),
        kept=tuple(key for key in own if key not in parameters),
        tied={alias: carrier[id(parameter)] for alias, parameter in aliases if alias not in own},
        defaulted=preparation.defaulted,
        values_predicted=sum(value.numel() for value in parameters.values()),
        values=sum(parameter.numel() for parameter in own.values()),
        calibration=preparation.calibration,
        head=preparation.head,
        unsolved=preparation.unsolved or _without_labels(readout, batches),
        diversified=None if fell_back else diversify,
        frozen=frozen,
        comparison=comparison,
        fell_back=fell_back,
        rescaled=() if fell_back else rescaled,
        out_of_distribution=unlike,
    )


def _predicted(
    model: nn.Module,
    source: nn.Module | ComputationalGraph,
    generator: Generator,
    condition: Any,
    example_inputs: Any,
) -> Parameters:
    """The parameters of ``model``, in its data types, from its graph where there is one already."""
    parameters = generator.generate(source, condition, example_inputs=example_inputs)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    return {name: parameters[name].to(dtype) for name, dtype in dtypes.items() if name in parameters}


def _without_labels(readout: str, batches: Iterable[Any] | None) -> str:
    if readout != "ridge_where_labelled" or batches is not None:
        return ""
    return "There are no labels to solve it on: pass `calibrate=` with batches of (inputs, labels)."


def _refuse_all_frozen(model: nn.Module, own: Mapping[str, Tensor], frozen: Collection[str]) -> None:
    if own and len(frozen) == len(own):
        raise ParameterError(
            f"All {len(own)} parameters of {type(model).__name__} are frozen (requires_grad=False), so there is "
            "nothing to write: set requires_grad on those that are to be initialised, or pass `overwrite_frozen=True`."
        )


def _first(batches: Iterable[Any]) -> Any:
    batch = next(iter(batches), None)
    if batch is None:
        raise ParameterError("There are no batches in `calibrate=`: pass at least one, or leave it out.")
    return batch


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
    if isinstance(batches, Iterator):
        return list(islice(batches, _MOST_BATCHES))
    try:
        len(batches)  # type: ignore[arg-type]
    except TypeError:  # a loader of a stream, which may never end
        return _FirstBatches(batches)
    return batches


class _FirstBatches:
    """The first batches of a stream, each time anew."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, _MOST_BATCHES)


def _first_inputs(model: nn.Module, batches: Iterable[Any]) -> Any:
    """One sample of the data, where the model does not tell what it takes, or tells images of another size."""
    batch = next(iter(batches), None)
    inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    sample = inputs[:1] if isinstance(inputs, Tensor) and inputs.dim() else None
    try:
        told, named = example_arguments(model)
    except TraceError:
        if not isinstance(inputs, Mapping):
            return sample
        return {
            key: value[:1] if isinstance(value, Tensor) and value.dim() else value
            for key, value in inputs.items()
            if key not in ("labels", "label")
        }
    if sample is None or named or len(told) != 1 or not isinstance(told[0], Tensor):
        return None
    kinds = [(one.dim(), one.shape[1:2], one.dtype) for one in (told[0], sample)]  # as many channels
    return sample if kinds[0] == kinds[1] else None
