"""Zoos: collections of checkpoints with their metadata, loaded when they are used."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.zoo.build.build import BuildReport, build_zoo
    from hypergen.zoo.build.plan import ZooPlan, binary_relabellings, permuted_labels
    from hypergen.zoo.callbacks.hugging_face import ZooTrainerCallback
    from hypergen.zoo.callbacks.lightning import ZooCallback
    from hypergen.zoo.importers import IMPORTERS, ImportReport, import_zoo
    from hypergen.zoo.layout import Entry, Layout
    from hypergen.zoo.reader import Zoo
    from hypergen.zoo.writer import ZooWriter

__getattr__, __dir__, __all__ = lazy_exports(__name__)
