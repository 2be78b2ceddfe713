"""The networks of the tracing sweep: one file per suite, named after it.

A suite's module has ``cases()``, which lists its networks, and ``EXCLUDED``, a mapping from the names that are left out
to the reason. Both are cheap: a network is made by its case's ``build``, in a process of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

SUITES = ("torchvision", "timm", "transformers", "diffusers", "torch_geometric", "pytorch", "peft")


@dataclass(frozen=True)
class Case:
    """A network of the sweep.

    Args:
        name: Its name in the sweep, unique in the suite.
        build: Makes the network. It is called on the meta device, and if that fails, on the CPU.
        inputs: Makes the ``example_inputs``; None where hypergen has to work them out.
        group: What the figures are told apart by, for example ``"classification"``.
        not_run: Says why PyTorch itself cannot run the network on these inputs; empty where it can. It is asked where
            tracing failed. A suite has it where networks and inputs are made by rules that do not fit every network.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any] | None = None
    group: str = ""
    not_run: Callable[[], str] | None = None


def load_suite(name: str) -> tuple[list[Case], Mapping[str, str]]:
    """A suite's cases, and the names that it excludes with the reason.

    Args:
        name: One of :data:`SUITES`.
    """
    module: Any = importlib.import_module(f"benchmarks.trace_suites.{name}")
    cases: Iterable[Case] = module.cases()
    return list(cases), module.EXCLUDED
