"""What the same networks do without a generator: computed once, kept in a file, and checked against the split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import hypergen.architectures
from hypergen.architectures import Architecture
from hypergen.evaluation.results import write_atomically
from hypergen.evaluation.steps import StepsCount, StepsProtocol

RECOMPUTE = "python -m hypergen.evaluation.image_classifiers.trained_baselines"
_INSTALLED = Path(hypergen.architectures.__file__).parent / "splits" / "digits" / "baselines.json"
_REPOSITORY = Path(hypergen.architectures.__file__).parents[2] / "datasets" / "image_classifiers_digits"
REPOSITORY_FILE = _REPOSITORY / "baselines.json"


@dataclass(frozen=True)
class BaselineProtocol:
    """How the baselines are computed.

    Args:
        epochs: Lengths of training on the test split.
        other_epochs: Lengths of training on the out-of-distribution splits.
        learning_rates: Learning rates of Adam; one is selected on validation per network and length.
        other_learning_rates_kept: On the out-of-distribution splits, how many of them go on beyond the first length.
        steps: How steps to an accuracy are counted, on the test split.
        step_architectures: For how many architectures, in the order of the split, that reach it at all.
        seed: Random seed of initialisations and of the order of training images.
    """

    epochs: tuple[int, ...] = (1, 5, 20)
    other_epochs: tuple[int, ...] = (1, 5)
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    other_learning_rates_kept: int = 2
    steps: StepsProtocol = field(default_factory=StepsProtocol)
    step_architectures: int = 20
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that :meth:`from_json` reads."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BaselineProtocol:
        """Read what :meth:`to_json` wrote."""
        return cls(**{**_with_tuples(data), "steps": StepsProtocol(**_with_tuples(data["steps"]))})


class Trained(NamedTuple):
    """Test accuracy after training, and the learning rate selected on validation for this length of training."""

    accuracy: float
    learning_rate: float


@dataclass(frozen=True)
class Baseline:
    """One architecture without a generator; accuracies on test images.

    Args:
        split: Split of architectures.
        name: Name of the architecture.
        parameters: How many it has.
        default: At default initialisation, batch norms calibrated.
        default_ridge_head: The same with the last linear layer solved on training images.
        trained: By epochs.
    """

    split: str
    name: str
    parameters: int
    default: float
    default_ridge_head: float
    trained: Mapping[int, Trained]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that :meth:`from_json` reads."""
        trained = {str(epochs): list(value) for epochs, value in self.trained.items()}
        return {**asdict(self), "trained": trained}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Baseline:
        """Read what :meth:`to_json` wrote."""
        trained = {int(epochs): Trained(*value) for epochs, value in data["trained"].items()}
        return cls(**{**data, "trained": trained})


@dataclass(frozen=True)
class DefaultSteps:
    """Steps of one architecture of the test split from default initialisation.

    Args:
        name: Name of the architecture.
        reaches: Whether it reaches the accuracy at any learning rate; without, it is left out of the comparison.
        count: At the learning rate selected on validation; None if it is left out.
    """

    name: str
    reaches: bool
    count: StepsCount | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON that :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DefaultSteps:
        """Read what :meth:`to_json` wrote."""
        count = data["count"]
        if count is not None:
            curve = tuple((int(step), float(value)) for step, value in count["curve"])
            count = StepsCount(count["learning_rate"], count["steps"], curve)
        return cls(data["name"], data["reaches"], count)


@dataclass
class Baselines:
    """Every baseline of every split.

    Args:
        data: Fingerprint of the images, see :meth:`hypergen.evaluation.image_data.ImageData.fingerprint`.
        protocol: How they were computed.
        records: By split and name of the architecture.
        steps: Number of steps of the first architectures of the test split, in its order.
        commit: That they were computed with.
        machine: That they were computed on.
    """

    data: str
    protocol: BaselineProtocol
    records: dict[tuple[str, str], Baseline] = field(default_factory=dict)
    steps: dict[str, DefaultSteps] = field(default_factory=dict)
    commit: str = "unknown"
    machine: Mapping[str, Any] = field(default_factory=dict)

    def require(self, data: str, splits: Mapping[str, Sequence[Architecture]]) -> None:
        """Check that there is a baseline for these images and every one of these architectures.

        Raises:
            ValueError: There is not; the message says how to compute it.
        """
        if self.data != data:
            raise ValueError(
                f"the baselines belong to other images (fingerprint {self.data}, these have {data}): use the data "
                f"module with the seed that they were computed with, or compute them again with `{RECOMPUTE}`"
            )
        missing = [
            f"{split}/{architecture.name}"
            for split, architectures in splits.items()
            for architecture in architectures
            if (split, architecture.name) not in self.records
        ]
        if missing:
            raise ValueError(
                f"no baseline for {len(missing)} architectures, {missing[0]} for one: the split files have changed "
                f"since the baselines were computed; compute them again with `{RECOMPUTE}`"
            )

    def comparable_steps(self, names: Sequence[str]) -> tuple[dict[str, StepsCount], list[str]]:
        """The architectures for the comparison of steps: those kept, with their counts, and those left out."""
        known = [self.steps[name] for name in names if name in self.steps]
        kept = {entry.name: entry.count for entry in known if entry.reaches and entry.count is not None}
        return kept, [entry.name for entry in known if not entry.reaches]

    def write(self, path: str | Path) -> None:
        """Write the file, one architecture per line, so that a changed one shows in a diff."""
        header = {
            "command": RECOMPUTE,
            "data": self.data,
            "protocol": self.protocol.to_json(),
            "commit": self.commit,
            "machine": dict(self.machine),
        }
        records = ",\n".join(f"    {json.dumps(_rounded(entry.to_json()))}" for entry in self.records.values())
        steps = ",\n".join(f"    {json.dumps(_rounded(entry.to_json()))}" for entry in self.steps.values())
        text = json.dumps(header, indent=2).removesuffix("\n}")
        text += f',\n  "records": [\n{records}\n  ],\n  "steps": [\n{steps}\n  ]\n}}\n'
        write_atomically(Path(path), text)


def load_baselines(path: str | Path | None = None) -> Baselines:
    """Load the baselines.

    Args:
        path: Path of the file; None for the ones that come with hypergen.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a file of baselines.
    """
    candidates = [_INSTALLED, REPOSITORY_FILE] if path is None else [Path(path)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"no file {' or '.join(str(candidate) for candidate in candidates)}; "
            f"compute the baselines with `{RECOMPUTE}`"
        )
    try:
        content = json.loads(found.read_text())
        records = [Baseline.from_json(entry) for entry in content["records"]]
        steps = [DefaultSteps.from_json(entry) for entry in content["steps"]]
        return Baselines(
            content["data"],
            BaselineProtocol.from_json(content["protocol"]),
            {(record.split, record.name): record for record in records},
            {entry.name: entry for entry in steps},
            content["commit"],
            content["machine"],
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{found} is not a file of baselines ({error!r}); compute it again with `{RECOMPUTE}`"
        ) from error


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def _rounded(value: Any) -> Any:
    """Shorten floats: accuracies are multiples of one over the number of test images."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
