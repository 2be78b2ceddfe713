"""LoRA adapters of one base from texts."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.text_to_adapter.model import TextToAdapter
    from hypergen.generators.text_to_adapter.training import TextToAdapterReport, train_text_to_adapter

__getattr__, __dir__, __all__ = lazy_exports(__name__)
