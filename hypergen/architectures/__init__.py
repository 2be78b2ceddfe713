"""Architecture spaces: distributions of networks with fixed train, validation, test and out-of-distribution splits."""

from hypergen.architectures.architecture import Architecture
from hypergen.architectures.families import known_families
from hypergen.architectures.image_classifiers import ImageClassifierSpace
from hypergen.architectures.language_models import LanguageModelSpace, language_model_split
from hypergen.architectures.split_files import SPLITS, Space, TrainingStream, load_split, load_split_space

__all__ = [
    "SPLITS",
    "Architecture",
    "ImageClassifierSpace",
    "LanguageModelSpace",
    "Space",
    "TrainingStream",
    "known_families",
    "language_model_split",
    "load_split",
    "load_split_space",
]
