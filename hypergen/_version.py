"""The version, apart from the package so that modules below it can name it."""

__version__ = "0.1.0"
