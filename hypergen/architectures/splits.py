"""How the splits of the digits space were drawn: ``python -m hypergen.architectures.splits`` writes them again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from hypergen.architectures.architecture import Architecture
from hypergen.architectures.image_classifiers import HELD_OUT_FAMILY, ImageClassifierSpace
from hypergen.architectures.split_files import SPLITS

SIZE = 100


class Split(NamedTuple):
    """The arguments of a split's space, and the seed of its first architecture."""

    space: dict[str, Any]
    seed: int


# Training counts its seeds from 0. Widths are 1.5 to 3 times, depths up to 2.3 times the greatest of training, with
# budgets that let such networks in.
DEFINITIONS = {
    "validation": Split({}, 1_000_000_000),
    "test": Split({}, 2_000_000_000),
    "wide": Split(
        {
            "conv_width": (72, 144),
            "dense_growth": (24, 48),
            "mlp_width": (192, 384),
            "token_width": (96, 192),
            "max_parameters": 1_000_000,
            "max_multiply_adds": 10_000_000,
        },
        3_000_000_000,
    ),
    "deep": Split({"depth": (8, 14), "max_parameters": 250_000, "max_multiply_adds": 1_600_000}, 4_000_000_000),
    "no_norm": Split({"norms": ("none",)}, 5_000_000_000),
    "new_family": Split({"families": (HELD_OUT_FAMILY,)}, 6_000_000_000),
}


def draw_splits(size: int = SIZE) -> dict[str, list[Architecture]]:
    """Draw every split anew; no architecture is drawn twice.

    Args:
        size: Architectures per split.
    """
    seen: set[str] = set()
    splits: dict[str, list[Architecture]] = {}
    for name in SPLITS:
        definition = DEFINITIONS[name]
        space = ImageClassifierSpace(**definition.space)
        architectures: list[Architecture] = []
        seed = definition.seed
        while len(architectures) < size:
            architecture = space.sample(seed)
            seed += 1
            if architecture.name not in seen:
                seen.add(architecture.name)
                architectures.append(architecture)
        splits[name] = architectures
    return splits


def write_splits(root: str | Path, size: int = SIZE) -> None:
    """Write every split as ``{name}.json`` into a folder.

    Args:
        root: The folder; made if it does not exist.
        size: Architectures per split.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for name, architectures in draw_splits(size).items():
        definition = DEFINITIONS[name]
        header = {
            "split": name,
            "command": "python -m hypergen.architectures.splits",
            "space": ImageClassifierSpace(**definition.space).to_json(),
            "seed": definition.seed,
        }
        # One architecture per line: a changed one shows in a diff.
        lines = ",\n".join(f"    {json.dumps(architecture.to_json())}" for architecture in architectures)
        text = json.dumps(header, indent=2).removesuffix("\n}") + f',\n  "architectures": [\n{lines}\n  ]\n}}\n'
        (root / f"{name}.json").write_text(text)


def main() -> None:
    """Write the split files."""
    parser = argparse.ArgumentParser(description="Write the split files of the digits architecture space.")
    parser.add_argument("--root", default="datasets/image_classifiers_digits", help="the folder to write into")
    arguments = parser.parse_args()
    write_splits(arguments.root)
    print(f"wrote {', '.join(f'{name}.json' for name in SPLITS)} to {arguments.root}")


if __name__ == "__main__":
    main()
