"""Protocols, tables and plots: what counts as evidence about a generator."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.evaluation.image_classifiers.baseline_training import compute_baselines
    from hypergen.evaluation.image_classifiers.baselines import BaselineProtocol, Baselines, load_baselines
    from hypergen.evaluation.image_classifiers.figures import AIMS, EVALUATED_SPLITS
    from hypergen.evaluation.image_classifiers.protocol import Evaluation, evaluate_image_classifier_generator
    from hypergen.evaluation.image_classifiers.records import ArchitectureRecord, StepsComparison
    from hypergen.evaluation.image_data import ImageData
    from hypergen.evaluation.language_models import LanguageModelEvaluation, evaluate_language_model_generator
    from hypergen.evaluation.results import Results, Row
    from hypergen.evaluation.steps import StepsProtocol
    from hypergen.evaluation.zoo.folder import evaluate_on_zoo
    from hypergen.evaluation.zoo.protocol import ZooEvaluation, evaluate_zoo_generator

__getattr__, __dir__, __all__ = lazy_exports(__name__)
