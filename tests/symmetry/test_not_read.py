"""What a traced pass does not read, or what reaches no output, is not permuted, nor is what it may touch."""

import pytest
import torch
from torch import nn

from hypergen.graph import trace
from hypergen.symmetry.verify import Verification


class DeepSupervision(nn.Module):
    """Returns a second head's output in training, which reads the same units in another way or others."""

    def __init__(self, shared):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)
        self.deep = self.head if shared else nn.Conv2d(8, 2, 1)

    def forward(self, x):
        h = torch.relu(self.a(x))
        out = self.head(torch.relu(self.b(h)))
        return torch.stack([out, self.deep(h)]) if self.training else out


class EarlyExit(nn.Module):
    """Leaves at one of two exits, as the data say."""

    def __init__(self, flat=False):
        super().__init__()
        self.a, self.exit, self.b, self.last = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 8), nn.Linear(8, 3)
        if flat:
            self.a, self.exit, self.b = nn.Conv1d(4, 6, 1), nn.Conv1d(6, 3, 1), nn.Linear(6 * 5, 8)
        self.threshold = 0.0

    def forward(self, x):
        h = torch.relu(self.a(x))
        first = self.exit(h)
        if first.flatten(1).softmax(-1).max() > self.threshold:
            return first
        return self.last(torch.relu(self.b(h.flatten(1))))


class Dropped(nn.Module):
    """Computes two halves and a side branch, of which evaluation uses one."""

    def __init__(self):
        super().__init__()
        self.stem, self.side, self.head = nn.Linear(4, 12), nn.Linear(6, 5), nn.Linear(6, 2)

    def forward(self, x):
        one, _ = torch.relu(self.stem(x)).chunk(2, -1)
        self.side(one)
        return self.head(one)


class Experts(nn.Module):
    """Stacked experts of which only the first gets tokens, and a table of positions longer than the input."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Parameter(torch.zeros(3, 6, 8)), nn.Parameter(torch.zeros(3, 8, 6))
        self.stem, self.positions, self.head = nn.Linear(4, 6), nn.Parameter(torch.zeros(1, 9, 6)), nn.Linear(6, 2)

    def forward(self, x, expert=0):
        h = self.stem(x) + self.positions[:, : x.shape[1]]
        return self.head(h + torch.relu(h @ self.inner[expert]) @ self.outer[expert])


def changes(model, symmetry, run):
    """By how much a random element changes what ``run`` computes with the permuted parameters."""
    verification = Verification(model, None if run is None else run[0])
    element = symmetry.sample(torch.Generator().manual_seed(1))
    copies = (verification.tensors, symmetry.apply(verification.tensors, element))
    network = verification.model
    run[1](network)
    one, other = (torch.func.functional_call(network, tensors, run[2]) for tensors in copies)
    return float((one - other).abs().max())


@pytest.mark.parametrize("shared", [False, True])
def test_both_modes_are_traced(shared):
    model, x = DeepSupervision(shared), torch.randn(1, 1, 8, 8)
    symmetry = trace(model, x).symmetry()
    assert symmetry.unsupported == () and len(symmetry.groups) == (1 if shared else 2)
    given = x.double()
    assert changes(model, symmetry, (x, lambda network: network.train(), given)) < 1e-12


@pytest.mark.parametrize("flat", [False, True])
def test_what_the_other_exit_may_read_stays(flat):
    torch.manual_seed(0)
    model, x = EarlyExit(flat), torch.randn(2, 4, 5) if flat else torch.randn(2, 4)
    symmetry = trace(model, x).symmetry()
    given = x.double()
    assert changes(model, symmetry, (x, lambda network: setattr(network, "threshold", 2.0), given)) < 1e-12


def test_what_is_computed_and_dropped_stays():
    symmetry = trace(Dropped(), torch.zeros(3, 4)).symmetry()
    assert [group.size for group in symmetry.groups] == [6]
    # The side branch's inputs follow; its outputs, which nobody reads, stay.
    assert symmetry.uses[symmetry.groups[0].name] == (
        ("stem.weight", 0), ("stem.bias", 0), ("side.weight", 1), ("head.weight", 1),
    )  # fmt: skip
    assert "does not reach the outputs" in symmetry.frozen["side.weight"][0]


def test_unread_slices_follow_those_that_are_read():
    model, x = Experts(), torch.randn(2, 5, 4)
    symmetry = trace(model, x).symmetry()
    assert any(group.size == 6 for group in symmetry.groups)
    longer = (torch.randn(2, 9, 4).double(), 2)
    assert changes(model, symmetry, (x, lambda network: None, longer)) < 1e-12


def test_unread_parts_are_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.spare, self.scale = nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 5)), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    symmetry = trace(Net(), torch.zeros(1, 4)).symmetry()
    assert symmetry.unsupported == ("scale (not read in the traced pass)", "spare (not read in the traced pass)")
    assert symmetry.groups == () and "spare.0.weight" in symmetry.frozen["a.weight"][0]
