"""The published graph hypernetworks, and the files that their authors released."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.generators.published.model import ReleasedGraphHypernetwork

__getattr__, __dir__, __all__ = lazy_exports(__name__)
