"""Images, text and zoos as LightningDataModules, loaded when they are used."""

from typing import TYPE_CHECKING

from hypergen._lazy import lazy_exports

if TYPE_CHECKING:
    from hypergen.data.digits import DigitsDataModule
    from hypergen.data.folder import FolderImageDataModule
    from hypergen.data.images import ImageDataModule
    from hypergen.data.multi_task import MultiTaskImageDataModule
    from hypergen.data.parquet import ParquetImageDataModule
    from hypergen.data.procedural import ProceduralImageDataModule
    from hypergen.data.text import TextDataModule
    from hypergen.data.wrapped import WrappedDataModule
    from hypergen.data.zoo import ZooDataModule

__getattr__, __dir__, __all__ = lazy_exports(__name__)
