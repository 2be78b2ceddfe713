"""The form of every result: rows of figures with their spread, their number and their aim."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from hypergen.evaluation.machine import current_commit, describe_machine

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Args:
        figure: A stable snake_case name.
        value: The figure; NaN when it could not be computed.
        std: Standard deviation of what the figure summarises; 0 for a count.
        n: How many values it summarises.
        aim: The value to reach; None for baselines and counts.
        better: Whether ``"higher"`` or ``"lower"`` is better.
    """

    figure: str
    value: float
    std: float = 0.0
    n: int = 1
    aim: float | None = None
    better: Better = "higher"

    @classmethod
    def from_values(
        cls,
        figure: str,
        values: Iterable[float],
        *,
        aim: float | None = None,
        better: Better = "higher",
        statistic: Literal["mean", "median"] = "mean",
    ) -> Row:
        """Summarise values by their mean or median, with the standard deviation of the sample; NaN if none."""
        known = list(values)
        if not known:
            return cls(figure, math.nan, math.nan, 0, aim, better)
        centre = statistics.fmean(known) if statistic == "mean" else float(statistics.median(known))
        return cls(figure, centre, statistics.stdev(known) if len(known) > 1 else 0.0, len(known), aim, better)

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without an aim. A figure that could not be computed meets none."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.better == "higher" else self.value <= self.aim

    def cells(self) -> tuple[str, str, str, str, str]:
        """The row in words: figure, value ± std, n, aim, met."""
        spread = f" ± {_number(self.std)}" if self.n > 1 else ""
        aim = "" if self.aim is None else f"{'≥' if self.better == 'higher' else '≤'} {_number(self.aim)}"
        met = {None: "", True: "yes", False: "no"}[self.met]
        return self.figure, f"{_number(self.value)}{spread}", str(self.n), aim, met


@dataclass(frozen=True)
class Results:
    """The rows of one experiment, evaluation or benchmark, with what is needed to repeat it.

    Args:
        name: Name of the experiment.
        seed: That it ran with.
        rows: Its figures, each under a name of its own.
        details: Anything JSON-able that explains the figures, such as the settings of the protocol.
        commit: Commit of the code; ``"unknown"`` outside a checkout.
        machine: CPU model, cores and versions.

    Raises:
        ValueError: Two rows have the same name.
    """

    name: str
    seed: int
    rows: tuple[Row, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    commit: str = field(default_factory=current_commit)
    machine: Mapping[str, Any] = field(default_factory=describe_machine)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))
        names = [row.figure for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"figures must have names of their own; twice: {', '.join(twice)}")

    def __getitem__(self, figure: str) -> Row:
        """The row of a figure.

        Raises:
            KeyError: There is no such figure; the message lists those there are.
        """
        for row in self.rows:
            if row.figure == figure:
                return row
        raise KeyError(f"no figure {figure!r}; there are {', '.join(row.figure for row in self.rows)}")

    def __contains__(self, figure: object) -> bool:
        return any(row.figure == figure for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; NaN becomes None, which JSON can say."""
        return {
            "name": self.name,
            "seed": self.seed,
            "commit": self.commit,
            "machine": dict(self.machine),
            "rows": [
                {
                    "figure": row.figure,
                    "value": _finite_or_none(row.value),
                    "std": _finite_or_none(row.std),
                    "n": row.n,
                    "aim": row.aim,
                    "better": row.better,
                }
                for row in self.rows
            ],
            **({"details": dict(self.details)} if self.details else {}),
        }

    def to_json(self) -> str:
        """One line of JSON: what a benchmark prints last."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Read what :meth:`to_json` or :meth:`write` wrote."""
        data = json.loads(text)
        rows = [
            Row(
                row["figure"],
                math.nan if row["value"] is None else row["value"],
                math.nan if row["std"] is None else row["std"],
                row["n"],
                row["aim"],
                row["better"],
            )
            for row in data["rows"]
        ]
        return cls(data["name"], data["seed"], tuple(rows), data.get("details", {}), data["commit"], data["machine"])

    def to_markdown(self) -> str:
        """A table with a row per figure, and where it comes from."""
        machine = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        lines = [
            f"# {self.name}",
            "",
            "| figure | value ± std | n | aim | met |",
            "| --- | ---: | ---: | ---: | --- |",
            *(f"| {' | '.join((f'`{name}`', *rest))} |" for name, *rest in (row.cells() for row in self.rows)),
            "",
            f"Seed {self.seed}, commit {self.commit}, {machine}.",
            "",
        ]
        return "\n".join(lines)

    def write(self, folder: str | Path) -> None:
        """Write ``results.json`` and ``results.md``; each is whole or not there, also when the disk is full.

        Args:
            folder: Made if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "results.json", json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")
        write_atomically(folder / "results.md", self.to_markdown())

    def print_table(self, console: Console | None = None) -> None:
        """Print the rows, figures with an aim in green or red."""
        table = Table(title=self.name, title_justify="left")
        for heading, justify in (("figure", "left"), ("value ± std", "right"), ("n", "right"), ("aim", "right")):
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("met")
        styles = {None: "", True: "green", False: "red"}
        for row in self.rows:
            table.add_row(*row.cells(), style=styles[row.met])
        (console or Console()).print(table)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that no reader ever sees half of it, and a failure leaves the old one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # Temporary files are made for their owner alone; a result is for everyone who may read the folder.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "—"
    if float(value).is_integer() and abs(value) >= 2:
        return f"{value:.0f}"
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
