import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from hypergen.architectures.families.conv_nets import ConvNet
from hypergen.architectures.families.token_nets import VisionTransformer
from hypergen.cli.main import app
from hypergen.errors import ParameterError
from hypergen.graph import trace
from hypergen.symmetry.align.matching import match_weights
from hypergen.symmetry.align.merging import align_networks, interpolate

SHAPE = {"image_size": 8, "channels": 1, "num_classes": 10}
IMAGE = torch.zeros(1, 1, 8, 8)
FACTORY = """
import torch
from torch import nn
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
"""


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 9)

    def forward(self, x):
        return self.head(self.cell(x)[0])


class Sorted(nn.Module):
    """An operation that no rule knows between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.second(torch.linalg.matrix_exp(torch.diag_embed(self.first(x))).sum(-1)).relu())


def grouped():
    return ConvNet(**SHAPE, block="grouped", widths=[8, 16], depths=[1, 1], head="flatten")


NETWORKS = {
    "grouped": (grouped, IMAGE),
    "vit": (lambda: VisionTransformer(**SHAPE, width=12, depth=2, heads=3, patch_size=4), IMAGE),
    "recurrent": (Recurrent, torch.zeros(1, 5, 6)),
}


def randomised(build, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "running" in name else torch.randn_like(tensor) / 3)
    return model


def distance(one, other, names):
    return sum(float((one[name] - other[name]).square().sum()) for name in names) ** 0.5


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_copy_is_undone_with_all_that_varies_with_other_groups(name):
    build, inputs = NETWORKS[name]
    model = randomised(build, 0)
    symmetry = trace(model, inputs).symmetry()
    assert any(group.parents for group in symmetry.groups) or name == "recurrent"
    a = model.state_dict()
    b = symmetry.apply(a, symmetry.sample(torch.Generator().manual_seed(1)))
    found = align_networks(model, a, b, inputs)
    assert found.before > 1 and found.after == 0
    assert all(torch.equal(found.aligned[key], value) for key, value in a.items())
    # And where the copy is not exact, as far as that goes.
    noise = torch.Generator().manual_seed(2)
    noisy = {k: v + 0.05 * torch.randn(v.shape, generator=noise) for k, v in b.items() if v.is_floating_point()}
    expected = 0.05 * sum(value.numel() for value in model.parameters()) ** 0.5
    assert align_networks(model, a, {**b, **noisy}, inputs).after == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", NETWORKS)
def test_another_network_comes_nearer_and_computes_the_same(name):
    build, inputs = NETWORKS[name]
    first, second = randomised(build, 0), randomised(build, 1)
    before = {key: value.clone() for key, value in second.state_dict().items()}
    found = align_networks(first, first.state_dict(), second.state_dict(), inputs)
    names = dict(first.named_parameters())
    assert found.before == pytest.approx(distance(first.state_dict(), before, names))
    assert found.after == pytest.approx(distance(first.state_dict(), found.aligned, names)) and found.moved > 0
    assert found.after < 0.97 * found.before
    x = torch.randn(2, *inputs.shape[1:])
    torch.testing.assert_close(torch.func.functional_call(second, found.aligned, (x,)), second(x), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in second.state_dict().items())


def test_heads_are_matched_whatever_the_order_of_their_channels():
    # Inner products of heads as they stand say nothing: only after matching the channels within do pairs show.
    model = randomised(NETWORKS["vit"][0], 3)
    symmetry = trace(model, IMAGE).symmetry()
    parameters = dict(model.named_parameters())
    element = symmetry.identity()
    inner = [group for group in symmetry.groups if group.parents]
    (heads, *_) = {group.parents[0].name: None for group in inner}
    element[heads] = torch.tensor([2, 0, 1])
    for group in inner:
        element[group.name] = symmetry.sample(torch.Generator().manual_seed(4))[group.name]
    found = match_weights(symmetry, symmetry.apply(parameters, element), parameters)
    assert all(torch.equal(found[name], value) for name, value in symmetry.inverse(element).items())


def test_what_no_rule_covers_stays_and_is_reported():
    first, second = randomised(Sorted, 0), randomised(Sorted, 1)
    found = align_networks(first, first.state_dict(), second.state_dict(), torch.zeros(2, 4))
    assert found.unsupported and found.groups == 1
    assert torch.equal(found.aligned["first.weight"], second.first.weight)
    assert not torch.equal(found.aligned["last.weight"], second.last.weight)


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return F.linear(self.one(x).relu(), self.two.weight.t())

    first, second = randomised(Tied, 0), randomised(Tied, 1)
    found = align_networks(first, first.state_dict(), second.state_dict(), torch.zeros(2, 6))
    assert torch.equal(found.aligned["one.weight"], found.aligned["two.weight"]) and found.moved == 1


def test_interpolation_is_between():
    a = {"weight": torch.zeros(2, dtype=torch.float16), "count": torch.tensor(3)}
    b = {"weight": torch.full((2,), 4.0, dtype=torch.float16), "count": torch.tensor(9)}
    middle = interpolate(a, b, 0.25)
    assert middle["weight"].tolist() == [1.0, 1.0] and middle["weight"].dtype == torch.float16
    assert middle["count"] == 3


def test_checkpoints_that_do_not_fit_are_refused_by_tensor():
    model = randomised(grouped, 0)
    good = model.state_dict()
    name = "stem.0.weight"
    cases = {
        "missing": {key: value for key, value in good.items() if key != name},
        "shape": {**good, name: torch.zeros(9, 1, 3, 3)},
        "not finite": {**good, name: torch.full_like(good[name], torch.nan)},
        "not a tensor of": {**good, "stem.9.weight": torch.zeros(1)},
    }
    for message, bad in cases.items():
        with pytest.raises(ParameterError, match=f"of b .*\n  stem.[09].weight: .*{message}"):
            align_networks(model, good, bad, IMAGE)
        with pytest.raises(ParameterError, match="of a "):
            align_networks(model, bad, good, IMAGE)
    with pytest.raises(ParameterError, match="same tensors: extra"):
        align_networks(trace(model, IMAGE), good, {**good, "extra": torch.zeros(1)})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets_to_align.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_command_writes_the_aligned_and_the_merged_network(folder):
    import nets_to_align

    first, second = randomised(nets_to_align.net, 0), randomised(nets_to_align.net, 1)
    torch.save({"state_dict": {f"model.{key}": value for key, value in first.state_dict().items()}}, "a.ckpt")
    save_file({f"model.{key}": value for key, value in second.state_dict().items()}, "b.safetensors")
    options = ["--model", "nets_to_align:net", "--input", "1,16", "--prefix", "model."]
    command = ["align", "a.ckpt", "b.safetensors", "-o", "out/c.safetensors", *options]
    result = CliRunner().invoke(app, [*command, "--merged", "d.safetensors", "--share", "0.25"])
    assert result.exit_code == 0, result.output
    assert "1 of them permuted" in result.output and "batch norms" in result.output
    aligned, merged = load_file("out/c.safetensors"), load_file("d.safetensors")
    x = torch.randn(5, 16)
    torch.testing.assert_close(torch.func.functional_call(second, aligned, (x,)), second(x))
    torch.testing.assert_close(merged["1.weight"], 0.75 * first[1].weight + 0.25 * aligned["1.weight"])
    before = float(result.output.split("distance before")[1].split()[1])
    after = float(result.output.split("distance after")[1].split()[1])
    assert 0 < after < before


def test_the_command_says_what_is_missing(folder):
    import nets_to_align

    state = randomised(nets_to_align.net, 0).state_dict()
    save_file(state, "a.safetensors")
    save_file({**state, "1.weight": torch.full_like(state["1.weight"], torch.inf)}, "b.safetensors")
    known = ["--model", "nets_to_align:net", "--input", "1,16"]
    cases = [
        (["a.safetensors", "a.safetensors", "-o", "c.safetensors"], "--model"),
        (["a.safetensors", "a.safetensors", "-o", "c.pth", *known], ".safetensors"),
        (["a.safetensors", "gone.safetensors", "-o", "c.safetensors", *known], "gone.safetensors"),
        (["a.safetensors", "b.safetensors", "-o", "c.safetensors", *known], "1.weight: 192 of 192 values"),
    ]
    for arguments, message in cases:
        result = CliRunner().invoke(app, ["align", *arguments])
        assert result.exit_code == 2 and message in result.output, result.output
        assert not (folder / "c.safetensors").exists()
