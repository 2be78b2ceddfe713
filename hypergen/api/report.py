"""What was done to a network, and which of two starts is better for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from hypergen.api.comparison import Comparison
from hypergen.functional import BatchNormCalibration, RidgeHead

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class InitializationReport:
    """What :func:`initialize` did to a network.

    Attributes:
        model: The network's class.
        generator: The generator's class, and the name or path it was loaded by.
        predicted: Parameters that the generator wrote.
        kept: Parameters that keep the network's values: those that no operation reads, frozen ones, and all of them
            where the network's own start is better.
        frozen: Those of them that are frozen (``requires_grad=False``).
        tied: Alias name → the name that carries it.
        defaulted: Buffers that go with predicted parameters but keep the network's own values: the running statistics
            of batch norms that were not calibrated.
        values_predicted: Numbers that the generator wrote.
        values: Numbers that the parameters of the network hold.
        calibration: Batch norms whose running statistics were estimated, and from how many samples; None without data.
        head: The layer that was solved in closed form afterwards, and on how many samples; None if none was.
        unsolved: Why the last layer was not solved, where it should have been: its logits are of no use yet.
        diversified: How the predicted weights were made more diverse; None if they were not.
        comparison: The predicted start beside the network's own, and which is better; None if they were not compared.
        fell_back: Whether the network keeps its own values because they are the better start.
        rescaled: Predicted parameters that were scaled, or left at the network's own values, so that activations have
            the size that they have at the network's own start.
        out_of_distribution: In which respects the network is unlike those that the generator was trained on.
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
    unsolved: str = ""
    diversified: str | None = None
    frozen: tuple[str, ...] = ()
    comparison: Comparison | None = None
    fell_back: bool = False
    rescaled: tuple[str, ...] = ()
    out_of_distribution: tuple[str, ...] = ()

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

    @property
    def _compared(self) -> str:
        if self.comparison is None or self.fell_back:
            return ""
        if not self.comparison.better:
            return f"not compared with the network's own start: {self.comparison.reason}"
        if self.comparison.better == "predicted" and self.comparison.predicted.loss is None:
            return f"nothing speaks against the predicted start (no labels to compare losses): {self.comparison.reason}"
        return f"the better start is {self.comparison.better}: {self.comparison.reason}"

    @property
    def _solved(self) -> str:
        if self.head is None:
            return f"not solved, so the logits say nothing yet: {self.unsolved}" if self.unsolved else ""
        return (
            f"{self.head.name} solved in closed form on {self.head.samples:,} samples; accuracy on samples left out "
            f"{self.head.left_out_accuracy:.2f}"
        )

    def __rich__(self) -> Table:
        """The report as a table."""
        from rich.markup import escape
        from rich.table import Table

        count = f"{len(self.predicted)} parameter{'s' * (len(self.predicted) != 1)}"
        unread = [name for name in self.kept if name not in self.frozen]
        rows = {
            "predicted": f"{count}, {self.values_predicted:,} values: {self.share_of_parameters_predicted:.2%} of all",
            "fallback": f"the network keeps its own values: {self.comparison.reason}"
            if self.comparison is not None and self.fell_back
            else "",
            "frozen": f"{_listed(self.frozen)} (overwrite_frozen=True writes them, too)" if self.frozen else "",
            "kept": f"{_listed(unread)} (read by no operation)" if unread and not self.fell_back else "",
            "scaled": f"{len(self.rescaled)} parameters, for activations within a factor 4 of the network's own start"
            if self.rescaled
            else "",
            "compared": self._compared,
            "unlike training": "; ".join(self.out_of_distribution),
            "diversified": self.diversified or "",
            "tied": _listed([f"{alias} = {name}" for alias, name in self.tied.items()]),
            "batch norm": self.batch_norm,
            "head": self._solved,
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


def _listed(names: Iterable[str], shown: int = 10) -> str:
    names = list(names)
    more = len(names) - shown
    return ", ".join(islice(names, shown)) + (f" and {more} more" if more > 0 else "")
