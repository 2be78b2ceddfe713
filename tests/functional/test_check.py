import pytest
import torch
from torch import nn

from hypergen.errors import ParameterError
from hypergen.functional import check_parameters, expected_shapes


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=False)
        self.head.weight = self.embedding.weight


def parameters_of(model):
    return {name: torch.zeros(shape) for name, shape in expected_shapes(model).items()}


def test_expected_shapes_are_the_named_parameters():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    assert expected_shapes(model) == {
        "0.weight": (4, 1, 3, 3),
        "0.bias": (4,),
        "1.weight": (4,),
        "1.bias": (4,),
    }


def test_tied_parameter_once():
    assert list(expected_shapes(Tied())) == ["embedding.weight"]
    check_parameters(Tied(), {"embedding.weight": torch.zeros(7, 3)})
    with pytest.raises(ParameterError, match="head.weight: tied to embedding.weight"):
        check_parameters(Tied(), {"embedding.weight": torch.zeros(7, 3), "head.weight": torch.zeros(7, 3)})


def test_lazy_module():
    with pytest.raises(ParameterError, match=r"0\.weight.*forward pass"):
        expected_shapes(nn.Sequential(nn.LazyLinear(3)))


def test_every_problem_is_named():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    parameters = parameters_of(model)
    del parameters["0.weight"]
    parameters["0.bias"] = torch.zeros(3)
    parameters["1.weight"] = torch.full((2, 2), torch.nan)
    parameters["1.bias"] = torch.zeros(2, dtype=torch.complex64)
    parameters["2.weight"] = torch.zeros(2, 2, dtype=torch.int64)
    parameters["2.bias"] = [0.0, 0.0]
    parameters["3.weight"] = torch.zeros(2, 2, device="meta")
    parameters["stranger"] = torch.zeros(1)
    with pytest.raises(ParameterError) as caught:
        check_parameters(model, parameters)
    message = str(caught.value)
    for problem in (
        "0.weight: missing, expected shape [2, 2]",
        "0.bias: shape [3], expected [2]",
        "1.weight: not finite",
        "1.bias: complex (torch.complex64), expected floating point",
        "2.weight: integer (torch.int64), expected floating point",
        "2.bias: a list",
        "3.weight: on the meta device",
        "stranger: not a parameter of it",
    ):
        assert problem in message
    assert "more" not in message


def test_ten_problems_and_a_count():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    with pytest.raises(ParameterError, match="and 6 more") as caught:
        check_parameters(model, {})
    assert str(caught.value).count("missing") == 10


def test_partial_and_infinite_when_asked():
    model = nn.Linear(2, 2)
    check_parameters(model, {"bias": torch.full((2,), torch.inf)}, finite=False, partial=True)
    with pytest.raises(ParameterError, match="bias: not finite"):
        check_parameters(model, {"bias": torch.full((2,), torch.inf)}, partial=True)


def test_values_must_fit_the_models_data_type():
    model = nn.Linear(1, 1, bias=False).half()
    check_parameters(model, {"weight": torch.full((1, 1), 6e4)})
    with pytest.raises(ParameterError, match=r"not finite in the model's torch\.float16"):
        check_parameters(model, {"weight": torch.full((1, 1), 1e5)})


def test_a_sum_that_overflows_is_not_a_value_that_does():
    check_parameters(nn.Linear(4, 1, bias=False), {"weight": torch.full((1, 4), 3e38)})
