"""Protocols, tables and plots: what counts as evidence about a generator."""

from hypergen.evaluation.image_classifiers.baseline_training import compute_baselines
from hypergen.evaluation.image_classifiers.baselines import BaselineProtocol, Baselines, load_baselines
from hypergen.evaluation.image_classifiers.figures import AIMS, EVALUATED_SPLITS
from hypergen.evaluation.image_classifiers.protocol import Evaluation, evaluate_image_classifier_generator
from hypergen.evaluation.image_classifiers.records import ArchitectureRecord, StepsComparison
from hypergen.evaluation.image_data import ImageData
from hypergen.evaluation.language_models import LanguageModelEvaluation, evaluate_language_model_generator
from hypergen.evaluation.results import Results, Row
from hypergen.evaluation.steps import StepsProtocol

__all__ = [
    "AIMS",
    "EVALUATED_SPLITS",
    "ArchitectureRecord",
    "BaselineProtocol",
    "Baselines",
    "Evaluation",
    "ImageData",
    "LanguageModelEvaluation",
    "Results",
    "Row",
    "StepsComparison",
    "StepsProtocol",
    "compute_baselines",
    "evaluate_image_classifier_generator",
    "evaluate_language_model_generator",
    "load_baselines",
]
