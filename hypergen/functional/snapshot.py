"""A network as it was before something was tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unchanged_after_errors(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Give the model its old parameters and buffers back, as the same objects, if anything goes wrong.

    Yields:
        What gives them back, for those who go back on purpose.
    """
    members = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.is_meta}
    saved = {key: tensor.detach().clone() for key, tensor in tensors.items()}

    def restore() -> None:
        with torch.no_grad():
            for key, tensor in tensors.items():
                if not torch.equal(tensor, saved[key]):
                    tensor.copy_(saved[key])
        for module, parameters, buffers in members:
            now = {**module._parameters, **module._buffers}
            for name, value in (*parameters.items(), *buffers.items()):
                if now.get(name) is not value:
                    setattr(module, name, value)

    try:
        yield restore
    except BaseException:
        restore()
        raise
