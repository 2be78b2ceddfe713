"""Callbacks that add the checkpoints of a training loop to a zoo."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.zoo.callbacks.hugging_face import ZooTrainerCallback
    from hypergen.zoo.callbacks.lightning import ZooCallback

__getattr__, __dir__, __all__ = lazy_exports(__name__)
