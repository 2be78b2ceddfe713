"""Metanetworks: networks that take the parameters of networks as input."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.metanets.hyperparameter_search.deep_kernel import DeepKernelForecast
    from hypergen.metanets.hyperparameter_search.sampler import (
        WeightAwarePruner,
        WeightAwareSampler,
        earlier_step,
        report_weights,
    )
    from hypergen.metanets.hyperparameter_search.weight_features import WeightFeatures
    from hypergen.metanets.layers.edge_layer import EdgeLayer
    from hypergen.metanets.layers.incidences import Incidences, incidences_of
    from hypergen.metanets.layers.product_layer import ProductLayer
    from hypergen.metanets.layers.relational_layer import RelationalLayer
    from hypergen.metanets.meta_pruning.model import PruningMetanetwork
    from hypergen.metanets.meta_pruning.training import MetaPruningTraining
    from hypergen.metanets.metanetwork import EquivariantMetanetwork, GraphMetanetwork, InvariantMetanetwork, States
    from hypergen.metanets.nowcasting.callback import NowcastingCallback
    from hypergen.metanets.nowcasting.equivariant import EquivariantNowcaster
    from hypergen.metanets.nowcasting.nino import NowcastGNN, NowcastMLP
    from hypergen.metanets.nowcasting.nino_files import load_nino
    from hypergen.metanets.nowcasting.nowcaster import LinearExtrapolation, StateAverage
    from hypergen.metanets.nowcasting.optimizer import Nowcaster
    from hypergen.metanets.nowcasting.training import NowcastingTraining
    from hypergen.metanets.nowcasting.trend import TrendMLP
    from hypergen.metanets.probes import Probes
    from hypergen.metanets.property_prediction.model import PropertyPredictor
    from hypergen.metanets.property_prediction.training import MeasuredNetworks, PropertyPrediction
    from hypergen.metanets.pyg_metanetwork import PyGMetanetwork
    from hypergen.metanets.scale_equivariant import ScaleEquivariantMetanetwork

__getattr__, __dir__, __all__ = lazy_exports(__name__, subpackages=True)
