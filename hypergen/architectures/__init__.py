"""Architecture spaces: distributions of networks with fixed train, validation, test and out-of-distribution splits."""

from hypergen.architectures.architecture import Architecture
from hypergen.architectures.families import known_families
from hypergen.architectures.image_classifiers import ImageClassifierSpace
from hypergen.architectures.split_files import SPLITS, TrainingStream, load_split, load_split_space

__all__ = [
    "SPLITS",
    "Architecture",
    "ImageClassifierSpace",
    "TrainingStream",
    "known_families",
    "load_split",
    "load_split_space",
]
