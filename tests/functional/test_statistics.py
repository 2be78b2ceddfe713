import pytest
import torch

from hypergen.errors import ParameterError
from hypergen.functional import distinct_value_share


def test_repeats_count_within_and_between_parameters():
    parameters = {"a": torch.tensor([[1.0, 2.0], [2.0, 3.0]]), "b": torch.tensor([3.0, 4.0, 4.0, 4.0])}
    assert distinct_value_share(parameters) == 4 / 8


def test_random_values_are_distinct_and_tiles_are_not():
    values = torch.randn(100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert distinct_value_share({"weight": values}) == 1.0
    assert distinct_value_share({"weight": values.repeat(2, 2)}) == 0.25


def test_data_types_together():
    assert distinct_value_share({"a": torch.tensor([0.5]), "b": torch.tensor([0.5, 0.1], dtype=torch.float64)}) == 2 / 3


def test_nothing_has_no_share():
    with pytest.raises(ParameterError, match="empty"):
        distinct_value_share({"weight": torch.zeros(0, 3)})
