"""Configurations whose widths do not fit together are set to what the layers are given."""

import pytest
import torch
from torch import nn

from hypergen.architectures.hugging_face.repair import attempt, repaired


class Config:
    """Has the widths of three layers, one of which adds up two of them."""

    def __init__(self, **widths):
        self.widths = {"inner": 8, "read": [6, 3], "towers": {"tail": 4}} | widths

    def to_dict(self):
        return self.widths

    @classmethod
    def from_dict(cls, values):
        return cls(**values)


class Network(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths = config.widths
        self.embed = nn.Linear(5, widths["inner"])
        self.middle = nn.Linear(widths["read"][0], 4)
        self.last = nn.Linear(widths["towers"]["tail"] + 4, 2)
        self.example_input_array = torch.zeros(1, 5)

    def forward(self, x):
        x = self.embed(x)
        return self.last(torch.cat([self.middle(x), x], 1))


def test_misfits_are_told_and_repaired_one_after_the_other():
    config = Config()
    tried = attempt(Network, config)
    assert tried.failure is not None
    assert tried.misfits == [("middle", 6, 8)] * len(tried.misfits)
    fitting = repaired(Network, config, tried)
    assert fitting.failure is None and fitting.misfits == []
    inner = fitting.model.embed.out_features
    assert fitting.model.middle.in_features == inner
    assert fitting.model.last.in_features == 4 + inner
    assert fitting.model.last.weight.is_meta
    assert config.to_dict() == Config().to_dict()
    assert not any(module._forward_pre_hooks for module in fitting.model.modules())


def test_what_no_number_of_the_configuration_mends_stays_a_failure():
    class Fixed(Network):
        def __init__(self, config):
            super().__init__(config)
            self.middle = nn.Linear(7, 4)

    tried = attempt(Fixed, Config())
    assert repaired(Fixed, Config(), tried) is tried
    assert tried.misfits[0] == ("middle", 7, 8)


def test_a_misfit_that_shapes_alone_do_not_refuse_is_a_failure():
    class Grouped(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.up = nn.ConvTranspose1d(4, 4, 2, groups=4)
            self.example_input_array = torch.zeros(1, 8, 3)

        def forward(self, x):
            return self.up(x)

    tried = attempt(Grouped, Config())
    with pytest.raises(ValueError, match="'up' was built for a width of 4 and is given 8"):
        raise tried.failure
