"""What pruning gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hypergen.errors import CheckpointError
from hypergen.symmetry.prune.copies import copied, named_tensors_of, replace_tensors
from hypergen.symmetry.prune.tracked_sizes import Attribute, set_integers

_TENSORS, _DESCRIPTION = "model.safetensors", "pruning.json"


@dataclass(frozen=True)
class Pruned:
    """A network without some of its units.

    Attributes:
        model: The smaller network, with values of its own.
        removed: Group name → how many of its units are gone, for each index of its parents.
        left: Group name → why it was to be pruned and was not.
        changed_norms: Norms that average over the units that are left, where they averaged over all: the smaller
            network computes what the whole one does with them at zero but for these. Empty with ``norms="exact"``.
        integers: Attribute of a module → its old and its new value, where an operation reads it.
        edits: Where an object of the network holds an integer, and what it is now, for all that changed.
    """

    model: nn.Module
    removed: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    changed_norms: tuple[str, ...] = ()
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    edits: tuple[tuple[tuple[Any, ...], int], ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the smaller network into a folder: its tensors, and the integers that its modules hold instead.

        Args:
            path: The folder; it is made where it does not exist.
        """
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in named_tensors_of(self.model).items()}
        description = {
            "network": type(self.model).__name__,
            "edits": [[list(where), new] for where, new in self.edits],
            "removed": dict(self.removed),
            "left": dict(self.left),
            "changed_norms": list(self.changed_norms),
        }
        save_file({name: value.clone() for name, value in tensors.items()}, folder / _TENSORS)
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> Pruned:
        """Read what :meth:`save` wrote; nothing in the folder is executed.

        Args:
            path: The folder.
            model: A network of the architecture that was pruned, with any parameters; it is not changed.

        Raises:
            CheckpointError: The folder is missing, damaged, or of another network.
        """
        folder = Path(path)
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            tensors = load_file(folder / _TENSORS)
            edits = tuple((tuple(where), int(new)) for where, new in description["edits"])
            removed, left = description["removed"], description["left"]
            norms = tuple(description["changed_norms"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(
                f"{str(folder)!r} holds no pruned network: {type(error).__name__}: {error}. Expected a folder that "
                "Pruned.save wrote."
            ) from error
        missing = named_tensors_of(model).keys() ^ tensors.keys()
        if missing:
            raise CheckpointError(
                f"{str(folder)!r} is a pruned {description.get('network')}, and does not fit {type(model).__name__}: "
                f"{', '.join(sorted(missing)[:3])} {'is' if len(missing) == 1 else 'are'} in one of them only. Pass a "
                "network of the architecture that was pruned."
            )
        module = copied(model)
        replace_tensors(module, tensors)
        try:
            set_integers(module, {Attribute(where[:-1], where[-1], 0): new for where, new in edits})
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{str(folder)!r} names an attribute that {type(model).__name__} does not have: {error}. Pass a "
                "network of the architecture that was pruned."
            ) from error
        return cls(module, removed, left, norms, edits=edits)
