"""A zoo of adapters: stacked in one form, with their texts, in the format of every zoo."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from hypergen.adapters.adapter import Adapter, by_base
from hypergen.adapters.bases import check_fit, fit_to_base
from hypergen.adapters.read import find_adapters, read_adapter
from hypergen.adapters.stack import Form, StackedAdapters, stack_adapters
from hypergen.errors import CheckpointError, ParameterError
from hypergen.functional.files import read_any_json
from hypergen.zoo import Layout, Zoo, ZooWriter
from hypergen.zoo.folder import DESCRIPTION

Texts = Mapping[str, str | Sequence[str]]


def write_adapter_zoo(
    folder: str | os.PathLike[str], adapters: Sequence[Adapter], texts: Texts | None = None, form: Form = "aligned"
) -> StackedAdapters:
    """Store adapters of one base in one form; each is a run, and its text a task.

    Args:
        folder: Folder of the zoo.
        adapters: Adapters that can be stacked, with different names.
        texts: Texts by name of adapter.
        form: See :func:`hypergen.adapters.stack_adapters`.

    Raises:
        ParameterError: They cannot be stacked, or two have one name.
        CheckpointError: The folder holds something else.
    """
    names = [adapter.name for adapter in adapters]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ParameterError(f"Two adapters have the name {double!r}. Rename a folder.")
    stacked = stack_adapters(adapters, form)
    metadata = {"adapter_config": dict(stacked.config), "form": form}
    first = {key: value[0] for key, value in stacked.parameters.items()}
    with ZooWriter(folder) as writer:
        for name, text in (texts or {}).items():
            writer.add_task(name, {"text": text if isinstance(text, str) else list(text)})
        writer.add_stacked(
            stacked.parameters,
            runs=names,
            steps=0,
            layout=Layout.of(first, name=adapters[0].base or "adapter", metadata=metadata),
            columns={"task": [name if name in (texts or {}) else None for name in names]},
        )
    return stacked


def read_adapter_zoo(folder: str | os.PathLike[str]) -> tuple[StackedAdapters, list[str], dict[str, str | list[str]]]:
    """What :func:`write_adapter_zoo` stored: adapters, their names, and texts by name.

    Raises:
        CheckpointError: It is no zoo of adapters.
    """
    zoo = Zoo(folder)
    config = dict(zoo.layout.metadata).get("adapter_config")
    if not isinstance(config, Mapping):
        raise CheckpointError(
            f"{str(folder)!r} is a zoo, but not one of adapters: its layout has no adapter_config. Make one with "
            "`hypergen adapters store`."
        )
    texts = {name: described["text"] for name, described in zoo.tasks.items() if "text" in described}
    return StackedAdapters(zoo.stack(), dict(config)), zoo.column("run"), texts


def is_zoo(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a zoo, and not one of adapters as other libraries write them."""
    return (Path(folder) / DESCRIPTION).is_file()


def read_named_adapters(folder: str | os.PathLike[str]) -> list[Adapter]:
    """Adapters below a folder, named by their paths in it where their own names are not different.

    Raises:
        CheckpointError: There is none, or one cannot be read.
    """
    root = Path(folder)
    paths = find_adapters([root])
    adapters = [read_adapter(path) for path in paths]
    own = [adapter.name for adapter in adapters]
    if len(set(own)) == len(own):
        return adapters
    renamed = []
    for path, adapter in zip(paths, adapters, strict=True):
        name = path.relative_to(root).as_posix()
        renamed.append(Adapter(adapter.modules, adapter.extras, adapter.config, name, adapter.naming))
    return renamed


def read_texts(file: str | os.PathLike[str]) -> dict[str, str | list[str]]:
    """Texts by name of adapter: ``{"name": "text", "other": ["wording", "another"]}``.

    Raises:
        CheckpointError: It is something else.
    """
    found = read_any_json(Path(file))
    good = isinstance(found, dict) and all(
        isinstance(text, str) or (isinstance(text, list) and text and all(isinstance(each, str) for each in text))
        for text in found.values()
    )
    if not good or not found:
        raise CheckpointError(
            f'{str(file)!r} holds no texts. Expected {{"name of an adapter": "its text", …}}, with a list of texts for '
            "several wordings."
        )
    return found


def join_texts(names: Sequence[str], texts: Texts, partial: bool = False) -> list[int]:
    """Positions of the adapters that have a text.

    Args:
        names: Names of the adapters.
        texts: Texts by name.
        partial: Whether adapters without a text, and texts without an adapter, are left out.

    Raises:
        ParameterError: There are such and they may not be left out, or nothing is left.
    """
    without = [name for name in names if name not in texts]
    alone = [name for name in texts if name not in names]
    if (without or alone) and not partial:
        parts = [f"{len(without)} adapters have no text: {', '.join(without[:5])}"] if without else []
        parts += [f"{len(alone)} texts have no adapter: {', '.join(alone[:5])}"] if alone else []
        raise ParameterError(f"{'; '.join(parts)}. Add them, or leave them out with --partial.")
    found = [number for number, name in enumerate(names) if name in texts]
    if not found:
        raise ParameterError(
            f"No adapter has a text: adapters are called {', '.join(names[:3])}, texts {', '.join(list(texts)[:3])}."
        )
    return found


def fitting_group(adapters: Sequence[Adapter], base: nn.Module) -> tuple[list[Adapter], dict[str, str]]:
    """The adapters that fit a base and adapt the same modules, and why others are left out, by group.

    Raises:
        ParameterError: None fits, or those that fit adapt different modules.
    """
    groups = by_base(adapters)
    fits = {name: fit_to_base(own[0], base) for name, own in groups.items()}
    chosen = [name for name, fit in fits.items() if fit.fits]
    if not chosen:
        check_fit(next(iter(groups.values()))[0], base)
    if len(chosen) > 1:
        described = ", ".join(
            f"{name!r} ({len(groups[name])}, {len(groups[name][0].modules)} modules)" for name in chosen
        )
        raise ParameterError(
            f"{len(chosen)} groups of adapters fit the base and adapt different modules, or name different bases: "
            f"{described}. Put those to take into a folder of their own."
        )
    others = {name: f"{len(groups[name])} adapters: {fit}" for name, fit in fits.items() if name != chosen[0]}
    return groups[chosen[0]], others
