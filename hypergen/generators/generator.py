"""The contract of every generator: a condition in, parameters out."""

from __future__ import annotations

import copy
import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from hypergen.errors import CheckpointError, GeneratorError, ParameterError
from hypergen.functional import Parameters, check_parameters, expected_shapes
from hypergen.functional.arguments import check_arguments
from hypergen.functional.check import is_finite
from hypergen.generators.checkpoint import GeneratorCheckpoint, provenance, read_checkpoint, write_checkpoint
from hypergen.generators.example import GeneratorExample, example_inputs, example_target
from hypergen.generators.hub import locate
from hypergen.generators.model_card import model_card
from hypergen.generators.registry import generator_class
from hypergen.graph import ComputationalGraph, trace

_SHOWN = 10


class Generator(nn.Module, ABC):
    """Turns a condition into parameters.

    A subclass takes flat, JSON-able arguments, implements :meth:`predict`, and is made known by
    :func:`hypergen.generators.register_generator`. Its arguments are recorded, so that it can be saved and rebuilt.
    """

    # Arguments that checkpoints lack which were saved before there were such arguments, with what they meant then.
    earlier_arguments: Mapping[str, Any] = {}

    # Constructor arguments and condition of :meth:`example`.
    example_arguments: ClassVar[Mapping[str, Any]] = {}
    example_condition: ClassVar[Any] = None

    # Whether parameters depend on a condition beside the architecture; one that is not taken is an error.
    takes_condition: bool = True
    # What a classifier's last layer is meant to be: "predicted", or "ridge", solved on the user's labels.
    readout: str = "predicted"
    # Whether the computational graph is all that is read of the target.
    reads_graphs: bool = False

    _arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the constructor's arguments, with its defaults filled in."""
        instance = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        try:
            bound = signature.bind(instance, *args, **kwargs)
        except TypeError:  # Copying makes an empty instance; everyone else hears of the wrong arguments from __init__.
            return instance
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(value)
            elif kind is not inspect.Parameter.VAR_POSITIONAL:
                arguments[name] = value
            elif value:
                raise TypeError(f"{cls.__name__} takes *{name}; a generator's arguments must have names to be saved.")
        # Past nn.Module.__setattr__, which needs __init__ to have run.
        instance.__dict__["_arguments"] = {
            name: _as_json(value, f"{cls.__name__}({name}=…)") for name, value in arguments.items()
        }
        check_arguments(cls, instance._arguments)
        return instance

    @property
    def config(self) -> dict[str, Any]:
        """The keyword arguments that make this generator again: flat and JSON-able."""
        return copy.deepcopy(self._arguments)

    @property
    def device(self) -> torch.device:
        """Device of the generator's own parameters."""
        tensor = next(self.parameters(), next(self.buffers(), None))
        return torch.device("cpu") if tensor is None else tensor.device

    @classmethod
    def example(cls) -> GeneratorExample:
        """A small untrained generator with a target and a condition, on which the tests of all generators run.

        A method states :attr:`example_arguments` and :attr:`example_condition`, or overrides this.
        """
        return GeneratorExample(cls(**cls.example_arguments), example_target(), cls.example_condition, example_inputs())

    @abstractmethod
    def predict(
        self, target: nn.Module | ComputationalGraph, condition: Any = None, *, example_inputs: Any = None
    ) -> Parameters:
        """Predict parameters; what :meth:`generate` calls and checks.

        Args:
            target: The network, or its computational graph.
            condition: What else the parameters depend on.
            example_inputs: What the network is called with, where it has to be traced and does not tell.

        Returns:
            A tensor for every parameter that an operation of the target reads.
        """

    def generate(
        self, target: nn.Module | ComputationalGraph, condition: Any = None, *, example_inputs: Any = None
    ) -> Parameters:
        """Generate the parameters of ``target``, strictly: each name, each shape, finite.

        Differentiable with respect to the generator's parameters while gradients are on.

        Args:
            target: The network, which is only read and may live on the meta device; or its computational graph.
            condition: What else the parameters depend on.
            example_inputs: What the network is called with, where it does not tell.

        Returns:
            A tensor per name of ``dict(target.named_parameters())``, tied parameters once. Parameters that no operation
            of the target reads cannot be predicted and may be left out; so may those that require no gradients.

        Raises:
            ParameterError: The target has no parameters, complex, integer or lazy ones, or the prediction does not fit.
            TraceError: The target could not be traced.
            GeneratorError: The generator takes no condition.
        """
        self._refuse_condition(condition)
        if isinstance(target, nn.Module):
            check_predictable(target)
        elif not target.parameter_shapes:
            raise ParameterError("The graph has no parameters, so there is nothing to generate. Pass another network.")
        check_memory(target)
        parameters = self.predict(target, condition, example_inputs=example_inputs)
        if isinstance(target, nn.Module):
            check_parameters(target, parameters, partial=True)
            # Adapters are generated for a network whose other parameters are frozen, and keep their values.
            missing = [
                name for name, value in target.named_parameters() if name not in parameters and value.requires_grad
            ]
            # Tracing takes time, and only a prediction with gaps needs to know which of them are allowed.
            unused = trace(target, example_inputs, both_modes=False).unused_parameters if missing else ()
        else:
            _check_against_graph(target, parameters)
            missing = [name for name in target.parameter_shapes if name not in parameters]
            unused = target.unused_parameters
        forgotten = [name for name in missing if name not in unused]
        if forgotten:
            raise ParameterError(
                f"{type(self).__name__} predicted no values for {_listed(forgotten)}, which operations of the network "
                "read. Its `predict` must return every parameter but those in `graph.unused_parameters`."
            )
        return parameters

    def out_of_distribution(self, graph: ComputationalGraph) -> tuple[str, ...]:
        """In which respects a graph is unlike those that the generator was trained on, in words; none where unknown."""
        return ()

    def generate_in_parts(
        self, graph: ComputationalGraph, parts: Sequence[Sequence[str]], condition: Any = None
    ) -> Iterator[Parameters]:
        """Generate some parameters at a time, for networks that do not fit into memory.

        Args:
            graph: The computational graph of the target.
            parts: Names of parameters; together they need not be all.
            condition: What else the parameters depend on.

        Yields:
            The parameters of each part in the order of its names: the values that :meth:`generate` gives.

        Raises:
            GeneratorError: The generator takes no condition.
            ParameterError: A part does not fit the graph, is incomplete or not finite.
        """
        self._refuse_condition(condition)
        for names, parameters in zip(parts, self.predict_in_parts(graph, parts, condition), strict=True):
            _check_against_graph(graph, parameters)
            if forgotten := [name for name in names if name not in parameters]:
                raise ParameterError(f"{type(self).__name__} predicted no values for {_listed(forgotten)}.")
            yield {name: parameters[name] for name in names}

    def predict_in_parts(
        self, graph: ComputationalGraph, parts: Sequence[Sequence[str]], condition: Any = None
    ) -> Iterator[Parameters]:
        """Predict part after part; what :meth:`generate_in_parts` checks.

        By default all parameters are predicted at once and handed out in parts. A generator that can do with less
        memory overrides it.
        """
        parameters = self.predict(graph, condition)
        for names in parts:
            yield {name: parameters.pop(name) for name in names if name in parameters}

    def _refuse_condition(self, condition: Any) -> None:
        if condition is not None and not self.takes_condition:
            raise GeneratorError(
                f"{type(self).__name__} takes no condition: its parameters depend on the architecture alone. Leave "
                f"condition={str(condition)[:100]!r} out, or load a generator that takes one."
            )

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        results: Mapping[str, Any] | None = None,
        card: str | None = None,
    ) -> Path:
        """Save the generator: config.json, model.safetensors and a model card, all or nothing.

        Args:
            folder: Where to save it; a generator that is already there is replaced.
            results: Its numbers, in the form of ``results.json``; they are shown in the card.
            card: Text for the model card, above the numbers: what it was trained on, and how to train it again.

        Returns:
            The folder.

        Raises:
            CheckpointError: It could not be written; a generator that was there before is still usable.
        """
        for name, value in (state := self.state_dict()).items():
            if not isinstance(value, Tensor):
                raise CheckpointError(f"{type(self).__name__}'s state {name!r} is no tensor, so it cannot be saved.")
        checkpoint = GeneratorCheckpoint(
            type(self).__name__, self.config, state, _as_json(results or {}, "results"), provenance()
        )
        return write_checkpoint(folder, checkpoint, model_card(Path(folder).name, checkpoint, card))

    @classmethod
    def from_pretrained(cls, path_or_id: str | os.PathLike[str], *, device: str | torch.device | None = None) -> Self:
        """Load a generator that :meth:`save_pretrained` wrote, in evaluation mode.

        Args:
            path_or_id: Its folder, its safetensors file, or its id on the Hugging Face Hub (``owner/name``).
            device: Where to put it; the CPU by default.

        Returns:
            The generator, of this class or of a subclass.

        Raises:
            CheckpointError: A file is missing, truncated, a pickle, of another format version or of another class, or
                its tensors do not fit. The message says what to do.
        """
        return cls.from_checkpoint(read_checkpoint(locate(path_or_id)), device=device)

    @classmethod
    def from_checkpoint(cls, checkpoint: GeneratorCheckpoint, *, device: str | torch.device | None = None) -> Self:
        """Rebuild a generator from what was read of it; see :meth:`from_pretrained`."""
        found = generator_class(checkpoint.class_name, checkpoint.source)
        if not issubclass(found, cls):
            raise CheckpointError(
                f"{checkpoint.source!r} is a {found.__name__}, not a {cls.__name__}. Load it with "
                "`hypergen.load_generator`, or name another checkpoint."
            )
        arguments = {**found.earlier_arguments, **checkpoint.arguments}
        _refuse_other_sizes(found, arguments, checkpoint)
        try:
            # Loading must not change which random numbers the caller's program draws next.
            with torch.random.fork_rng(devices=[]):
                generator = found(**arguments)
        except Exception as error:
            raise CheckpointError(
                f"{checkpoint.source!r} has arguments that {found.__name__} does not take: {error}. It was saved with "
                f"hypergen {checkpoint.provenance.get('hypergen')}; load it with that version."
            ) from error
        _refuse_other_tensors(generator, checkpoint)
        generator.load_state_dict(dict(checkpoint.tensors))
        return generator.eval() if device is None else generator.to(device).eval()


def _refuse_other_sizes(found: type[Generator], arguments: Mapping[str, Any], checkpoint: GeneratorCheckpoint) -> None:
    """Compare what a file says of a generator with its tensors before any memory is taken for the generator."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            without_values = found(**arguments)
    except Exception:  # what it does not take is reported where it is made for real
        return
    _refuse_other_tensors(without_values, checkpoint)


def _refuse_other_tensors(generator: Generator, checkpoint: GeneratorCheckpoint) -> None:
    expected, given = generator.state_dict(), checkpoint.tensors
    problems = [f"missing {_listed(names)}"] if (names := [name for name in expected if name not in given]) else []
    if names := [name for name in given if name not in expected]:
        problems.append(f"unexpected {_listed(names)}")
    other = [name for name in expected if name in given and expected[name].shape != given[name].shape]
    if shapes := [f"{name} {list(given[name].shape)} instead of {list(expected[name].shape)}" for name in other]:
        problems.append(f"of another shape: {_listed(shapes)}")
    if problems:
        raise CheckpointError(
            f"The tensors in {checkpoint.source!r} are not those of a {type(generator).__name__} with its arguments: "
            f"{'; '.join(problems)}. The file was changed or belongs to another version (it was saved with hypergen "
            f"{checkpoint.provenance.get('hypergen')}); get the original, or train the generator again."
        )


def check_memory(target: nn.Module | ComputationalGraph) -> None:
    """Complain about parameters that no memory of this machine could hold together."""
    shapes = expected_shapes(target) if isinstance(target, nn.Module) else target.parameter_shapes
    number = sum(math.prod(shape) for shape in shapes.values())
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return
    if number * 4 > memory:
        raise ParameterError(
            f"{number:,} parameters take {number * 4:,} bytes, and this machine has {memory:,} of memory. Write them "
            "to disk: `hypergen.predict_to_disk(model, generator, folder)`."
        )


def check_predictable(model: nn.Module) -> None:
    """Complain about parameters that no generator can write."""
    if not expected_shapes(model):
        raise ParameterError(
            f"{type(model).__name__} has no parameters, so there is nothing to generate. Pass the network itself, "
            "after its layers are made."
        )
    named = list(model.named_parameters())
    for kind, wrong in (
        ("complex", [name for name, p in named if p.is_complex()]),
        ("integer", [name for name, p in named if not (p.is_complex() or p.is_floating_point())]),
    ):
        if wrong:
            raise ParameterError(
                f"{type(model).__name__} has {kind} parameters, which generators do not write: {_listed(wrong)}. Make "
                + (
                    "them pairs of floating-point parameters (`torch.view_as_real`)."
                    if kind == "complex"
                    else "them buffers (`register_buffer`)."
                )
            )


def _check_against_graph(graph: ComputationalGraph, parameters: Mapping[str, Tensor]) -> None:
    problems = []
    for name, value in parameters.items():
        shape = graph.parameter_shapes.get(name)
        if shape is None:
            problems.append(f"{name}: not a parameter of the graph")
        elif tuple(value.shape) != tuple(shape):
            problems.append(f"{name}: shape {list(value.shape)}, expected {list(shape)}")
        elif not is_finite(value):
            problems.append(f"{name}: not finite")
    if problems:
        shown = "\n  ".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ParameterError(f"The prediction does not fit the graph:\n  {shown}{more}")


def _as_json(value: Any, where: str) -> Any:
    """A copy of ``value`` in plain JSON types; tuples become lists."""
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return [_as_json(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _as_json(item, where) for key, item in value.items()}
    hint = (
        " In a Hydra configuration, add `_convert_: all`, or pass it to instantiate."
        if "Config" in type(value).__name__
        else ""
    )
    raise TypeError(
        f"{where} is {value!r} ({type(value).__name__}), which JSON cannot hold. Expected None, a bool, a finite "
        f"number, a string, or lists and dicts of these.{hint}"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
