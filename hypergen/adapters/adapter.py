"""An adapter: low-rank updates by module, what else it changes, and where it is from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

from hypergen.adapters.factors import LowRank
from hypergen.errors import ParameterError

BIAS = ".lora_B.bias"


class _OfBase(Protocol):
    @property
    def base(self) -> str: ...

    @property
    def signature(self) -> tuple[tuple[str, int, int], ...]: ...


_Item = TypeVar("_Item", bound=_OfBase)


def by_base(adapters: Iterable[_Item]) -> dict[str, list[_Item]]:
    """Adapters that can be compared: of one base, with updates of the same modules and shapes.

    Returns:
        Groups by name of the base, in the order of their first adapters; several groups of one base are numbered.
    """
    groups: dict[tuple[str, Any], list[_Item]] = {}
    for each in adapters:
        groups.setdefault((each.base, each.signature), []).append(each)
    bases = [base for base, _ in groups]
    named: dict[str, list[_Item]] = {}
    for place, ((base, _), own) in enumerate(groups.items()):
        name = base or "unnamed base"
        named[f"{name} #{bases[:place].count(base) + 1}" if bases.count(base) > 1 else name] = own
    return named


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, in whatever naming it was found.

    Args:
        modules: Updates by name of module: as the base model has it, with the component before it for diffusers
            (``unet.``), with underscores for dots in kohya's files.
        extras: What is no low-rank update: magnitudes of DoRA (``<module>.lora_magnitude_vector``), biases of updates
            (``<module>.lora_B.bias``), and modules that are trained as a whole, under their own names.
        config: PEFT's configuration, as far as there is one.
        name: Name for messages and tables.
        naming: ``"peft"``, ``"diffusers"`` or ``"kohya"``.

    Raises:
        ParameterError: There is no update.
    """

    modules: Mapping[str, LowRank]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str = "adapter"
    naming: str = "peft"

    def __post_init__(self) -> None:
        if not self.modules:
            raise ParameterError(f"{self.name!r} has no low-rank update. Expected lora_A and lora_B of some module.")

    @property
    def base(self) -> str:
        """Name of the base model as the adapter gives it; empty if it does not."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def signature(self) -> tuple[tuple[str, int, int], ...]:
        """Modules with the shapes of their weights; equal for adapters of the same modules of one base."""
        return tuple(sorted((name, *update.shape) for name, update in self.modules.items()))

    @property
    def rank(self) -> int:
        """The largest rank of a module."""
        return max(update.rank for update in self.modules.values())

    @property
    def num_values(self) -> int:
        """Numbers in factors and extras."""
        factors = sum(update.up.numel() + update.down.numel() for update in self.modules.values())
        return factors + sum(value.numel() for value in self.extras.values())

    @property
    def changed_base(self) -> str:
        """How PEFT changes the base's weights before the adapter fits it, such as ``"pissa"``; empty if not."""
        initial = self.config.get("init_lora_weights")
        word = str(initial).lower() if isinstance(initial, str) else ""
        return word if word.startswith(("pissa", "olora", "corda", "loftq", "lora_ga")) else ""

    def canonical(self) -> Adapter:
        """The same adapter with every update's factors in canonical form; see :meth:`LowRank.canonical`."""
        return self.map(LowRank.canonical)

    def map(self, change: Callable[[LowRank], LowRank]) -> Adapter:
        """The adapter with each update changed, and everything else as it is."""
        return replace(self, modules={name: change(update) for name, update in self.modules.items()})

    def with_scale(self, scale: float = 1.0) -> Adapter:
        """The same adapter with one scale for all modules, which the factors make up for."""
        extras = {
            key: value * (self.modules[key.removesuffix(BIAS)].scale / scale) if key.endswith(BIAS) else value
            for key, value in self.extras.items()
        }
        return replace(self.map(lambda update: update.with_scale(scale)), extras=extras)

    def renamed(self, names: Mapping[str, str]) -> Adapter:
        """The adapter with other names of modules; those that are not named keep theirs."""
        extras = {}
        for key, value in self.extras.items():
            module = next((name for name in names if key.startswith(f"{name}.")), None)
            extras[key if module is None else names[module] + key.removeprefix(module)] = value
        return replace(
            self, modules={names.get(name, name): update for name, update in self.modules.items()}, extras=extras
        )
