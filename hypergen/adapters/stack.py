"""Adapters side by side: stacked tensors of one shape, as generators and zoos have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hypergen.adapters.adapter import Adapter
from hypergen.adapters.factors import LowRank
from hypergen.adapters.names import gather, tensors_of
from hypergen.adapters.write import peft_config
from hypergen.errors import ParameterError, UnknownNameError

Form = Literal["canonical", "aligned", "shared"]


@dataclass(frozen=True)
class StackedAdapters:
    """Adapters of the same modules, with one rank and scale 1.

    Attributes:
        parameters: ``[adapters, …]`` under the names of a PEFT folder.
        config: Configuration of PEFT that fits each of them.
    """

    parameters: Mapping[str, Tensor]
    config: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def adapter(self, number: int, name: str = "adapter") -> Adapter:
        """One of them."""
        return adapter_of({key: value[number] for key, value in self.parameters.items()}, self.config, name)


def adapter_of(state: Mapping[str, Tensor], config: Mapping[str, Any], name: str = "adapter") -> Adapter:
    """The adapter of tensors under the names of a folder, all with scale 1."""
    modules, extras, _ = gather(state, name)
    return Adapter(modules, extras, dict(config), name)


def stack_adapters(
    adapters: Sequence[Adapter], form: Form = "aligned", *, rank: int | None = None, energy: float = 0.9999
) -> StackedAdapters:
    """Bring adapters of one base into one form, in which a mean or a regression over them means something.

    The form does not depend on the factors, only on the updates:

    - ``"canonical"``: :meth:`hypergen.adapters.LowRank.canonical` of each, by itself.
    - ``"aligned"``: canonical factors, each turned by the rotation that brings it closest to the mean of all
      (generalised Procrustes analysis), from the factors of the mean update on. Order and signs of singular vectors,
      which jump between similar updates, are given up for it.
    - ``"shared"``: ``ΔWᵢ = upᵢ · down`` with one orthonormal ``down`` for all, the right singular vectors of all
      updates below one another. Factors are then linear in the updates, and the rank is that of all adapters together,
      as far as it holds a share ``energy``. As in KnOTS (Stoica et al., *Model merging with SVD to tie the Knots*,
      2024, arXiv:2410.19735), from the factors.

    Args:
        adapters: At least one; ranks and scales may differ.
        form: Which form.
        rank: Rank of the result; the largest there is by default. Of ``"shared"`` the largest that is allowed.
        energy: Share of the energy of each module that ``"shared"`` keeps.

    Raises:
        ParameterError: They adapt different modules, or have more than low-rank updates.
        UnknownNameError: The form is unknown.
    """
    if form not in get_args(Form):
        raise UnknownNameError("form of adapters", form, get_args(Form))
    _check(adapters)
    own = [adapter.with_scale(1.0).canonical() for adapter in adapters]
    rank = max(adapter.rank for adapter in own) if rank is None and form != "shared" else rank
    parameters: dict[str, list[Tensor]] = {}
    for module, like in own[0].modules.items():
        updates = [adapter.modules[module] for adapter in own]
        if form == "shared":
            ups, downs = _shared(updates, energy, rank)
        else:
            same = [update.with_rank(rank or 1) for update in updates]
            ups = torch.stack([update.up.flatten(1).double() for update in same])
            downs = torch.stack([update.down.flatten(1).double() for update in same])
            if form == "aligned":
                ups, downs = _aligned(ups, downs)
        for up, down in zip(ups.float(), downs.float(), strict=True):
            up, down = up.reshape(*up.shape, *like.up.shape[2:]), down.reshape(-1, *like.down.shape[1:])
            for key, value in tensors_of({module: LowRank(up, down, 1.0, like.embedding)}, {}).items():
                parameters.setdefault(key, []).append(value)
    first = own[0]
    result = {key: torch.stack(values) for key, values in parameters.items()}
    shown = adapter_of({key: value[0] for key, value in result.items()}, first.config, first.name)
    return StackedAdapters(result, peft_config(shown))


def _aligned(ups: Tensor, downs: Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Turn balanced factors ``[adapters, outputs, rank]``, ``[adapters, rank, inputs]`` towards their mean."""
    count, _, rank = ups.shape
    side = LowRank(ups.transpose(0, 1).flatten(1) / count, downs.flatten(0, 1)).with_rank(rank)
    mean_up, mean_down = side.up.double(), side.down.double()
    for _ in range(rounds):
        cross = ups.mT @ mean_up + downs @ mean_down.T
        left, _, right = torch.linalg.svd(cross)
        turn = left @ right  # [adapters, rank, rank], orthogonal
        ups, downs = ups @ turn, turn.mT @ downs
        mean_up, mean_down = ups.mean(0), downs.mean(0)
    return ups, downs


def _shared(updates: Sequence[LowRank], energy: float, rank: int | None) -> tuple[Tensor, Tensor]:
    """Coordinates ``[adapters, outputs, rank]`` in a basis ``[adapters, rank, inputs]`` that is the same for all."""
    parts = [update.decompose(scaled=True) for update in updates]
    rows = torch.cat([sigma[:, None] * right for _, sigma, right in parts])
    _, strength, basis = torch.linalg.svd(rows, full_matrices=False)
    held = strength.square().cumsum(0) / strength.square().sum().clamp_min(1e-300)
    kept = min(int((held < energy).sum()) + 1, len(strength), rank or len(strength))
    basis = basis[:kept]
    ups = torch.stack([left * sigma @ (right @ basis.T) for left, sigma, right in parts])
    return ups, basis.expand(len(updates), -1, -1)


def _check(adapters: Sequence[Adapter]) -> None:
    if not adapters:
        raise ParameterError("There are no adapters to stack. Pass at least one.")
    for adapter in adapters:
        if adapter.signature != adapters[0].signature:
            other = sorted(set(adapter.modules) ^ set(adapters[0].modules))
            why = f"{other[0]!r} is in one alone" if other else "shapes differ"
            raise ParameterError(
                f"{adapter.name!r} and {adapters[0].name!r} do not adapt the same modules of one base: {why}. Take "
                "those of one group of read_adapters."
            )
        if adapter.extras or adapter.changed_base:
            what = next(iter(adapter.extras), "") or adapter.changed_base
            raise ParameterError(
                f"{adapter.name!r} is more than low-rank updates ({what}), which no form of factors holds. Leave it."
            )
