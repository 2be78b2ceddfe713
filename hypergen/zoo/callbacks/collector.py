"""What the callbacks of training loops have in common: adding a module's state to a zoo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from hypergen.zoo.importers.found import columns_of
from hypergen.zoo.index import uid_of
from hypergen.zoo.layout import Layout
from hypergen.zoo.writer import ZooWriter


class Collector:
    """Adds the states of a module that somebody trains to a zoo; a run that is resumed adds nothing twice.

    Args:
        folder: Folder of the zoo; made if there is none.
        task: What the module is trained for.
        keep_frozen: Whether parameters that are not trained are kept, once, under ``base/``; else they are left out,
            as those of a large model below an adapter should be.
        write_every: Checkpoints that are gathered before they are written; so many may be lost by a kill.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        task: str | None = None,
        keep_frozen: bool = False,
        write_every: int = 10,
    ) -> None:
        if write_every < 1:
            raise ValueError(f"write_every must be positive; got {write_every}")
        self.folder, self.task, self.keep_frozen, self.write_every = folder, task, keep_frozen, write_every
        self.columns: dict[str, Any] = {}
        self._writer: ZooWriter | None = None

    def describe(self, hyperparameters: Mapping[str, Any], **columns: Any) -> None:
        """Say what holds of every checkpoint of the run: hyperparameters, and columns such as ``init_seed``."""
        self.columns = {**columns_of(hyperparameters, {}), **columns}

    def collect(self, module: nn.Module, run: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a checkpoint, unless the zoo has it.

        Args:
            module: Whose state it is.
            run: Its name.
            step: Step number of the run.
            metrics: By names such as ``val_loss``, measured at this very step.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._writer is None:
            self._writer = ZooWriter(self.folder, on_duplicate="skip", shard_rows=self.write_every)
        if uid_of(run, step) in self._writer:
            return
        state = module.state_dict()
        frozen = [name for name, value in module.named_parameters() if not value.requires_grad and name in state]
        if frozen and not self.keep_frozen:
            state = {name: value for name, value in state.items() if name not in set(frozen)}
        layout = Layout.of(
            state,
            frozen=frozen if self.keep_frozen else (),
            buffers=[name for name, _ in module.named_buffers()],
            metadata={"class": type(module).__qualname__},
        )
        values = {name: _number(value) for name, value in metrics.items()}
        columns = {**self.columns, **columns_of({}, values), "task": self.task}
        stacked = {key: state[key].unsqueeze(0) for key in layout.keys()}
        self._writer.add_stacked(stacked, runs=[run], steps=step, layout=layout, columns=columns)

    def close(self) -> None:
        """Write what is gathered."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "numel", lambda: 1)() == 1 else value
