"""What adapters change, side by side: tables, nearest neighbours, pictures."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.adapters.adapter import Adapter, by_base
from hypergen.adapters.bases import Fit, fit_to_base
from hypergen.adapters.read import find_adapters, read_adapter
from hypergen.adapters.statistics import (
    adapter_statistics,
    kind_of,
    layer_of,
    rank_used,
    sketch,
    update_statistics,
)
from hypergen.errors import CheckpointError, HypergenError
from hypergen.functional.files import replace_file


@dataclass(frozen=True)
class Inspected:
    """What was measured of one adapter; its tensors are not kept.

    Attributes:
        name: Name of the adapter.
        path: Where it is.
        base: Base model that it names.
        signature: Modules with shapes.
        rank: The largest rank of a module.
        rank_used: Directions with 99% of the energy, a mean over modules.
        norm: Frobenius norm of all updates together.
        energy: Energy ``Σ σ²`` by module.
        statistics: ``<kind>.<statistic>``.
        sketch: See :func:`hypergen.adapters.statistics.sketch`.
        fits: How it fits each candidate base, by name.
        notes: What a reader of the table should know.
    """

    name: str
    path: Path
    base: str
    signature: tuple[tuple[str, int, int], ...]
    rank: int
    rank_used: float
    norm: float
    energy: Mapping[str, float]
    statistics: Mapping[str, float]
    sketch: Tensor
    fits: Mapping[str, Fit]
    notes: tuple[str, ...] = ()

    @property
    def energy_by_layer(self) -> dict[str, dict[int, float]]:
        """Share of the energy by kind of module and number of its layer; -1 for modules without a number."""
        total = sum(self.energy.values()) or 1.0
        shares: dict[str, dict[int, float]] = {}
        for module, value in self.energy.items():
            layer = layer_of(module)
            row = shares.setdefault(kind_of(module), {})
            row[-1 if layer is None else layer] = row.get(-1 if layer is None else layer, 0.0) + value / total
        return shares


def inspect_adapters(
    paths: Iterable[str | os.PathLike[str]], bases: Mapping[str, tuple[nn.Module, str]] | None = None
) -> list[Inspected]:
    """Measure every adapter in and below folders, one at a time.

    Args:
        paths: Folders and files.
        bases: Candidate bases by name, as :func:`hypergen.adapters.load_base` gives them.

    Raises:
        CheckpointError: A folder holds no adapter, or one cannot be read.
    """
    found = []
    for path in find_adapters(paths):
        found.append(inspect_adapter(read_adapter(path), path, bases))
    return found


def inspect_adapter(
    adapter: Adapter, path: Path = Path(), bases: Mapping[str, tuple[nn.Module, str]] | None = None
) -> Inspected:
    """Measure one adapter."""
    sigmas = {name: update.singular_values() for name, update in adapter.modules.items()}
    by_module = {name: update_statistics(update, sigmas[name]) for name, update in adapter.modules.items()}
    energy = {name: numbers["frobenius"] ** 2 for name, numbers in by_module.items()}
    used = [rank_used(sigma) for sigma in sigmas.values()]
    notes = []
    if adapter.changed_base:
        notes.append(f"initialised with {adapter.changed_base}: fits only the base that PEFT changes so")
    if any(key.endswith(".lora_magnitude_vector") for key in adapter.extras):
        notes.append("DoRA: magnitudes are not in these numbers")
    whole = [key for key in adapter.extras if not key.endswith((".lora_magnitude_vector", ".lora_B.bias"))]
    if whole:
        notes.append(f"{len(whole)} whole tensors beside the updates")
    if not any(energy.values()):
        notes.append("changes nothing: every update is 0")
    return Inspected(
        adapter.name,
        path,
        adapter.base,
        adapter.signature,
        adapter.rank,
        sum(used) / len(used),
        sum(energy.values()) ** 0.5,
        energy,
        adapter_statistics(by_module),
        sketch(adapter),
        {name: fit_to_base(adapter, *base) for name, base in (bases or {}).items()},
        tuple(notes),
    )


def similarities(inspected: Sequence[Inspected]) -> Tensor:
    """Cosines of adapters of one group, ``[adapters, adapters]``; from sketches.

    Raises:
        HypergenError: They have different modules.
    """
    if len({each.signature for each in inspected}) > 1:
        raise HypergenError("These adapters have different modules or shapes. Compare those of one group of by_base.")
    rows = torch.stack([each.sketch for each in inspected])
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return rows @ rows.T


def nearest(inspected: Sequence[Inspected]) -> list[tuple[str, float]]:
    """The nearest other adapter of each, by cosine; an empty name where it is alone."""
    if len(inspected) < 2:
        return [("", float("nan"))] * len(inspected)
    cosines = similarities(inspected).fill_diagonal_(-2)
    values, numbers = cosines.max(1)
    return [(inspected[int(n)].name, float(v)) for n, v in zip(numbers, values, strict=True)]


def write_inspection(inspected: Sequence[Inspected], folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``adapters.csv``, ``layers.csv``, and a map and heat maps as pictures for each group.

    Raises:
        CheckpointError: A file could not be written.
    """
    from hypergen.adapters.pictures import energy_map, heat_map, map_of

    folder = Path(folder)
    groups = by_base(inspected)
    summary, layers = [], []
    for group, own in groups.items():
        for each, (neighbour, cosine) in zip(own, nearest(own), strict=True):
            summary.append(
                {
                    "name": each.name,
                    "path": str(each.path),
                    "group": group,
                    "base": each.base,
                    "rank": each.rank,
                    "rank_used_99": each.rank_used,
                    "norm": each.norm,
                    "nearest": neighbour,
                    "cosine": cosine,
                    **{f"fits.{name}": str(fit) for name, fit in each.fits.items()},
                    "notes": "; ".join(each.notes),
                    **each.statistics,
                }
            )
            layers += [
                {"name": each.name, "group": group, "kind": kind, "layer": layer, "energy_share": share}
                for kind, shares in each.energy_by_layer.items()
                for layer, share in sorted(shares.items())
            ]
    paths = [_write_csv(folder / "adapters.csv", summary), _write_csv(folder / "layers.csv", layers)]
    for number, (group, own) in enumerate(groups.items()):
        end = f"_{number}" if len(groups) > 1 else ""
        drawn = {f"energy{end}": energy_map([each.energy_by_layer for each in own], group)}
        if len(own) > 1:
            cosines = similarities(own).numpy()
            names = [each.name for each in own]
            drawn[f"similarity{end}"] = heat_map(cosines, names, f"Cosine of updates, {group}")
            if len(own) > 2:
                drawn[f"map{end}"] = map_of(cosines, names, [each.norm for each in own], f"Map of adapters, {group}")
        for name, figure in drawn.items():
            content = io.BytesIO()
            figure.savefig(content, dpi=130, format="png")
            replace_file(folder / f"{name}.png", _writer(content.getvalue()))
            paths.append(folder / f"{name}.png")
    return paths


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, _writer(text.getvalue().encode()))
    return path


def _writer(content: bytes) -> Any:
    return lambda draft: draft.write_bytes(content)


def read_statistics(path: str | os.PathLike[str]) -> tuple[list[str], list[str], Tensor]:
    """Names, names of statistics, and the statistics ``[adapters, statistics]`` of an ``adapters.csv``.

    Raises:
        CheckpointError: It is none.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = [name for name in rows[0] if "." in name and not name.startswith("fits.")]
        if not columns:
            raise KeyError("it has no column of statistics")
        return (
            [row["name"] for row in rows],
            columns,
            torch.tensor([[float(row[name] or "nan") for name in columns] for row in rows]),
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{str(path)!r} is no adapters.csv of hypergen adapters inspect: {error}") from error
