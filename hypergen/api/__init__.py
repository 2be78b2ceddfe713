"""Predict, initialise, stream to disk: the functions that users call."""

from hypergen.api.disk import predict_to_disk
from hypergen.api.predict import Generator, initialize, list_generators, load_generator, predict_params

__all__ = ["Generator", "initialize", "list_generators", "load_generator", "predict_params", "predict_to_disk"]
