"""Measures imported networks on the data that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.architectures.by_name import NamedNetwork
from hypergen.functional.stacked_outputs import logits_of
from hypergen.zoo.layout import Layout

_BATCH = 512


class Measured:
    """Loss and accuracy of each network on validation and test samples, as columns of the index.

    Args:
        data: Data module in memory.
    """

    def __init__(self, data: Any) -> None:
        self.data = data
        self._modules: dict[str, nn.Module] = {}

    @torch.no_grad()
    def __call__(self, state: Mapping[str, Tensor], layout: Layout, known: Mapping[str, Any]) -> dict[str, float]:
        """What is not known yet of one checkpoint.

        Args:
            state: Its tensors.
            layout: Their layout, which names the network.
            known: Columns that are there already.

        Raises:
            HypergenError: The network does not fit the data.
        """
        name = str(layout.metadata["model"])
        if name not in self._modules:
            self._modules[name] = NamedNetwork(name).build().eval()
            if hasattr(self.data, "check"):
                self.data.check(self._modules[name], name)
        module = self._modules[name]
        module.load_state_dict({**state, **{alias: state[key] for alias, key in layout.tied.items()}}, strict=False)
        found: dict[str, float] = {}
        for split in ("validation", "test"):
            if {f"{split}.loss", f"{split}.accuracy"} <= set(known):
                continue
            inputs, labels = self.data.tensors(split)
            logits = torch.cat([logits_of(module(some)) for some in inputs.split(_BATCH)])
            if logits.shape[-1] == 1:
                loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
                hits = (logits[:, 0] > 0).long() == labels
            else:
                loss, hits = F.cross_entropy(logits, labels), logits.argmax(-1) == labels
            found |= {f"{split}.loss": float(loss), f"{split}.accuracy": float(hits.float().mean())}
        return found
