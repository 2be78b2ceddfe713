"""Images and text as LightningDataModules, loaded when they are used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypergen.data.digits import DigitsDataModule
    from hypergen.data.folder import FolderImageDataModule
    from hypergen.data.images import ImageDataModule
    from hypergen.data.parquet import ParquetImageDataModule
    from hypergen.data.text import TextDataModule

__all__ = ["DigitsDataModule", "FolderImageDataModule", "ImageDataModule", "ParquetImageDataModule", "TextDataModule"]

_MODULES = {
    "DigitsDataModule": "digits",
    "FolderImageDataModule": "folder",
    "ImageDataModule": "images",
    "ParquetImageDataModule": "parquet",
    "TextDataModule": "text",
}


def __getattr__(name: str) -> Any:
    # Lightning takes seconds to import: a program that only predicts parameters should not wait for it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
