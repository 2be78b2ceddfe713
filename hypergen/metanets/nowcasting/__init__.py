"""Nowcasting: parameters some training steps ahead, from their history."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.nowcasting.callback import NowcastingCallback
    from hypergen.metanets.nowcasting.equivariant import EquivariantNowcaster
    from hypergen.metanets.nowcasting.nino import NowcastGNN, NowcastMLP
    from hypergen.metanets.nowcasting.nino_files import load_nino
    from hypergen.metanets.nowcasting.nowcaster import LinearExtrapolation, StateAverage
    from hypergen.metanets.nowcasting.optimizer import Nowcaster
    from hypergen.metanets.nowcasting.training import NowcastingTraining
    from hypergen.metanets.nowcasting.trend import TrendMLP

__getattr__, __dir__, __all__ = lazy_exports(__name__)
