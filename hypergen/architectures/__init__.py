"""Architecture spaces: distributions of networks with fixed train, validation, test and out-of-distribution splits."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.architectures.architecture import Architecture
    from hypergen.architectures.by_name import build_model
    from hypergen.architectures.families import known_families
    from hypergen.architectures.idiom_space import IdiomSpace, MixedSpace
    from hypergen.architectures.image_classifiers import ImageClassifierSpace
    from hypergen.architectures.language_models import LanguageModelSpace, language_model_split
    from hypergen.architectures.split_files import SPLITS, Space, TrainingStream, load_split, load_split_space

__getattr__, __dir__, __all__ = lazy_exports(__name__)
