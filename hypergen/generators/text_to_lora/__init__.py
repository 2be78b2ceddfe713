"""Text-to-LoRA's released checkpoints."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.text_to_lora.model import TextToLora

__getattr__, __dir__, __all__ = lazy_exports(__name__)
