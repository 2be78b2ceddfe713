"""Networks by name, as the command line and configurations give them.

=======================  =================================================================================
``timm:NAME``            a model of timm, ``timm:resnet50``
``torchvision:NAME``     a model of torchvision, ``torchvision:vit_b_16``
``hf:TYPE``              a Hugging Face Transformers model of this type in its default size, ``hf:gpt2``
``hf-small:TYPE``        the same with few, narrow layers; ``hf-small:gpt2/GPT2LMHeadModel`` names the class, too
``hf:FOLDER``            the model that the ``config.json`` in this folder describes
``package.module:NAME``  what this function or class returns without arguments, or this module itself
=======================  =================================================================================

Arguments follow with commas: ``timm:resnet18,num_classes=10,in_chans=1``. None of them downloads anything: the networks
are untrained.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hypergen.errors import HypergenError, UnknownNameError, missing_extra


def build_model(name: str, *, on_meta: bool = True) -> nn.Module:
    """Build the network that ``name`` means.

    Args:
        name: One of the forms in this module's docstring.
        on_meta: Build it on the meta device, where that is possible: parameters then have shapes and no values.

    Returns:
        The network, on the meta device or at its own random initialisation.

    Raises:
        UnknownNameError: No such model; the message gives the nearest names.
        HypergenError: The name has none of the forms, a library is not installed, or building the network failed.
    """
    scheme, colon, rest = name.partition(":")
    if not colon or not scheme or not rest:
        raise HypergenError(
            f"{name!r} names no model. Expected timm:NAME, torchvision:NAME, hf:TYPE_OR_FOLDER, or "
            "package.module:factory."
        )
    named, arguments = _split_arguments(rest if scheme in _SCHEMES else name)
    build = _SCHEMES.get(scheme, _from_python)(named, arguments)
    if on_meta:
        with suppress(Exception), torch.device("meta"):
            return build()
        # Some constructors compute with values (`.item()`) and work with real ones; the others fail again, in words.
    try:
        return build()
    except Exception as error:
        raise HypergenError(f"{name!r} could not be built: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class NamedNetwork:
    """A network by its name, as a zoo remembers what its checkpoints are of.

    Args:
        name: One of the forms in this module's docstring.

    Raises:
        HypergenError: The name is that of a module of Python's standard library, which makes no networks: a file that
            names one is not to be trusted.
    """

    name: str

    def __post_init__(self) -> None:
        scheme = self.name.partition(":")[0]
        if scheme not in _SCHEMES and scheme.partition(".")[0] in sys.stdlib_module_names:
            raise HypergenError(
                f"{self.name!r} is no network: {scheme!r} belongs to Python itself. Do not use the file that names it."
            )

    def build(self) -> nn.Module:
        """Make the network at its own initialisation."""
        return build_model(self.name, on_meta=False)

    def to_json(self) -> dict[str, str]:
        """What is needed to make it again."""
        return {"model": self.name}


def _split_arguments(name: str) -> tuple[str, dict[str, Any]]:
    """A name, and the keyword arguments behind it."""
    named, *rest = re.split(r",(\w+)=", name)
    values: dict[str, Any] = {}
    for key, text in zip(rest[::2], rest[1::2], strict=True):
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return named, values


def _library(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise missing_extra("This model", name, extra) from error


def _timm(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    timm = _library("timm", "vision")
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    return lambda: timm.create_model(name, **{**arguments, "pretrained": False})


def _torchvision(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    models = _library("torchvision", "vision").models
    if name not in models.list_models():
        raise UnknownNameError("torchvision model", name, models.list_models())
    builder = models.get_model_builder(name)
    # Their defaults download a pretrained backbone, or spend minutes on drawing values that are replaced anyway.
    defaults = {"weights": None, "weights_backbone": None, "init_weights": False}
    return lambda: builder(**arguments, **{key: defaults[key] for key in defaults if _accepts(builder, key)})


def _accepts(builder: Callable[..., Any], argument: str) -> bool:
    parameters = inspect.signature(builder).parameters
    forwards_init = argument == "init_weights" and builder.__name__ in ("inception_v3", "googlenet")
    return argument in parameters or forwards_init


def _hugging_face(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    transformers = _library("transformers", "transformers")
    folder = Path(name).expanduser()
    if folder.exists():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **arguments)
        except (OSError, ValueError, KeyError) as error:
            raise HypergenError(f"{str(folder)!r} holds no readable Transformers config.json: {error}") from error
    elif "/" in name:
        raise HypergenError(
            f"{name!r} is no folder here, and hypergen downloads no models. Get its configuration with `hf download "
            f"{name} config.json --local-dir FOLDER` and give hf:FOLDER."
        )
    else:
        known = transformers.CONFIG_MAPPING.keys()
        if name not in known:
            raise UnknownNameError("Hugging Face model type", name, known)
        config = transformers.AutoConfig.for_model(name, **arguments)
    architecture = next(iter(config.architectures or ()), None)
    if architecture and hasattr(transformers, architecture):
        return lambda: getattr(transformers, architecture)(config)
    return lambda: transformers.AutoModel.from_config(config)


def _small_hugging_face(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    if arguments:
        raise HypergenError(f"hf-small:{name} takes no arguments; got {', '.join(arguments)}. Use hf:{name}.")
    _library("transformers", "transformers")
    from hypergen.architectures.hugging_face.small import model_class_names, small_model

    model_type, _, class_name = name.partition("/")
    known = {kind: classes for kind, classes in model_class_names().items() if classes}
    if model_type not in known:
        raise UnknownNameError("Hugging Face model type", model_type, known)
    if class_name and class_name not in known[model_type]:
        raise UnknownNameError(f"class of {model_type}", class_name, known[model_type])
    return lambda: small_model(model_type, class_name or known[model_type][0])


def python_object(name: str) -> Any:
    """What ``package.module:name`` names.

    Raises:
        UnknownNameError: The module has no such name; the message gives the nearest ones.
        HypergenError: There is no such module, or importing it failed.
    """
    module_name, _, path = name.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing import inside the module is its own problem and keeps its name in the message.
        missing = error.name or ""
        if module_name == missing or module_name.startswith(f"{missing}."):
            hint = f" Did you mean one of {', '.join(_SCHEMES)}?" if "." not in module_name else ""
            raise HypergenError(
                f"There is no Python module {missing!r} to take {path!r} from. Expected package.module:factory, with "
                f"the package installed or in the current folder.{hint}"
            ) from error
        raise HypergenError(f"{module_name!r} could not be imported: {error}") from error
    except Exception as error:
        raise HypergenError(f"{module_name!r} could not be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(value, part):
            raise UnknownNameError(f"name in {module_name}", part, [n for n in vars(value) if not n.startswith("_")])
        value = getattr(value, part)
    return value


def look_in_current_folder() -> None:
    """Let names of Python modules be found in the folder that the user stands in, as ``python -m`` does."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _from_python(name: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    value = python_object(name)
    if isinstance(value, nn.Module):
        if arguments:
            raise HypergenError(f"{name!r} is a module already; it takes no arguments: {', '.join(arguments)}.")
        return lambda: value
    if not callable(value):
        raise HypergenError(f"{name!r} is a {type(value).__name__}. Expected a torch.nn.Module or what returns one.")

    def build() -> nn.Module:
        model = value(**arguments)
        if not isinstance(model, nn.Module):
            raise TypeError(f"it returned a {type(model).__name__}, expected a torch.nn.Module")
        return model

    return build


_SCHEMES: dict[str, Callable[[str, Mapping[str, Any]], Callable[[], nn.Module]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hugging_face,
    "hf-small": _small_hugging_face,
}
