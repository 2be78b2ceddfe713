"""What a network took from its donor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from hypergen.functional import Parameters

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TensorSource:
    """Where one tensor of the target comes from.

    Attributes:
        name: The parameter or buffer of the target.
        donor: The donor's; empty where it keeps the target's own value.
        how: ``"copied"``, ``"selected"``, ``"widened"``, ``"resized"``, ``"zeroed"`` (the last layer of an added block,
            a bias that the donor lacks) or ``"left"``.
        why: Why it was left or zeroed, in words.
    """

    name: str
    donor: str
    how: str
    why: str = ""


@dataclass(frozen=True, eq=False)
class DonorMapping:
    """The tensors of a target that come from a donor, and where each comes from.

    Attributes:
        parameters: By the target's names; those that were left are missing.
        buffers: Running statistics of batch norms.
        sources: One per parameter and mapped buffer of the target.
        values: Numbers that the parameters of the target hold.
        error: The largest difference between the outputs of donor and target on the example inputs, relative to the
            largest output, in float64; None where it was not measured.
    """

    parameters: Parameters
    buffers: dict[str, Tensor]
    sources: tuple[TensorSource, ...]
    values: int
    error: float | None = None

    @property
    def share(self) -> float:
        """Numbers that come from the donor, over all numbers in parameters."""
        return sum(value.numel() for value in self.parameters.values()) / max(self.values, 1)

    @property
    def exact(self) -> bool:
        """Whether the target was measured to compute what the donor does."""
        return self.error is not None and self.error <= 1e-9

    def counts(self) -> dict[str, int]:
        """How many tensors were copied, selected, widened, resized, zeroed and left."""
        return dict(Counter(source.how for source in self.sources))

    def __rich__(self) -> Table:
        """The mapping as a table, a line per tensor."""
        from rich.table import Table

        function = "" if self.error is None else f"; outputs differ from the donor's by {self.error:.1e}"
        table = Table(title=f"{self.share:.1%} of values from the donor{function}", title_justify="left")
        for heading in ("parameter", "from", "how"):
            table.add_column(heading)
        for source in self.sources:
            table.add_row(source.name, source.donor, source.how + (f": {source.why}" if source.why else ""))
        return table

    def __str__(self) -> str:
        """The shares and what was left, in a few lines."""
        counts = ", ".join(f"{number} {how}" for how, number in self.counts().items())
        left = [f"  {source.name}: {source.why}" for source in self.sources if source.how == "left"]
        return "\n".join([f"{self.share:.1%} of values from the donor ({counts})", *left[:10]])
