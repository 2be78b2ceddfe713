import argparse
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hypergen
from hypergen.errors import CheckpointError, GeneratorError, UnknownNameError
from hypergen.generators import load_generator
from hypergen.generators.published.encoders import ShapeEncoder
from hypergen.generators.published.files import read_released, untrained
from hypergen.generators.published.graph import LANGUAGE_PRIMITIVES, PRIMITIVES, released_graph
from hypergen.generators.published.model import ReleasedGraphHypernetwork

IMAGE = torch.zeros(1, 3, 16, 16)
SMALL = {
    "ghn-2": {"hidden": 16, "layers": 0, "max_shape": (8, 8, 11, 11), "num_classes": 10},
    "ghn-1": {
        "hidden": 16, "layers": 0, "max_shape": (8, 8, 11, 11), "num_classes": 10, "virtual_edges": False,
        "layer_norm": False, "weight_norm": False,
    },
    "ghn-3": {"hidden": 16, "layers": 2, "heads": 8, "max_shape": (8, 8, 16, 16), "num_classes": 20},
    "logah": {"hidden": 16, "layers": 2, "heads": 8, "max_shape": (32, 32, 16, 16), "rank": 4, "length": 512},
    "logah-language": {
        "hidden": 16, "layers": 1, "heads": 8, "max_shape": (32, 32, 16, 16), "rank": 4, "length": 512,
        "language": True, "num_classes": 10,
    },
}  # fmt: skip


class Net(nn.Module):
    """Convolutions of all kinds, a residual sum, squeeze and excitation, attention and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 12, (1, 3), padding=(0, 1), groups=12)
        self.squeeze = nn.Conv2d(12, 4, 1)
        self.excite = nn.Conv2d(4, 12, 1)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.last_norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = F.max_pool2d(self.norm(self.stem(x)).relu(), 2)
        x = x + self.grouped(x)
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.last_norm(x).mean(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def view(net):
    return released_graph(hypergen.trace(net, IMAGE))


def make(name, **changes):
    torch.manual_seed(1)
    generator = ReleasedGraphHypernetwork(**SMALL[name] | changes)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return generator.eval()


def quiet(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def test_the_graph_has_the_nodes_of_the_published_one(view):
    assert [PRIMITIVES[i] for i in view.primitives] == [
        "input", "conv", "bn", "max_pool", "sep_conv", "bias", "sum", "conv", "bias", "conv", "bias", "cse",
        "conv", "bias", "msa", "conv", "bias", "sum", "ln", "glob_avg", "conv", "bias",
    ]  # fmt: skip
    assert view.shapes[3] == (1, 1, 2, 2)
    assert view.shapes[0] is None and view.shapes[6] is None
    kinds = {target.name: (target.node, target.kind) for target in view.targets}
    assert kinds["norm.weight"] == (2, "norm_weight") and kinds["norm.bias"] == (2, "norm_bias")
    assert kinds["head.weight"] == (20, "class_weight") and kinds["head.bias"] == (21, "class_bias")
    assert view.unseen == ()
    edges = {tuple(edge) for edge in (view.distances == 1).nonzero().tolist()}
    assert {(3, 4), (3, 6), (5, 6), (6, 7), (6, 11), (10, 11), (16, 17), (11, 17)} <= edges
    assert view.distances[0, 21] == 10 and (view.distances.tril() == 0).all()


def test_paths_beyond_the_cutoff_are_no_edges(net):
    view = released_graph(hypergen.trace(net, IMAGE), cutoff=3)
    assert view.distances.max() == 3


def test_rms_norms_have_a_primitive_in_the_language_version():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    view = released_graph(hypergen.trace(LlamaForCausalLM(config)), language=True)
    names = [LANGUAGE_PRIMITIVES[i] for i in view.primitives]
    assert names.count("rmsnorm") == 3 and names.count("msa") == 1 and "glob_avg" not in names
    assert {t.kind for t in view.targets if "norm" in t.name} == {"norm_weight"}


@pytest.mark.parametrize("name", SMALL)
def test_everything_is_predicted_and_the_same_after_saving(name, net, tmp_path):
    generator = make(name)
    with torch.no_grad():
        parameters = quiet(generator.generate, net, example_inputs=IMAGE)
    assert parameters.keys() == dict(net.named_parameters()).keys()
    again = load_generator(generator.save_pretrained(tmp_path / "saved"))
    with torch.no_grad():
        same = quiet(again.generate, net, example_inputs=IMAGE)
    assert all(torch.equal(same[key], value) for key, value in parameters.items())


@pytest.mark.parametrize("name", SMALL)
def test_gradients_give_the_same_values(name, net, view):
    generator = make(name)
    with torch.no_grad():
        fast = quiet(generator, view)
    slow = quiet(generator, view)
    for key, value in slow.items():
        assert value.requires_grad
        torch.testing.assert_close(fast[key], value, rtol=1e-4, atol=1e-5)


def _by_formula(generator, state, target):
    """A parameter as the reference describes it: everything decoded, cut, repeated and scaled."""
    d, shape = len(state), target.shape
    if generator.rank:
        r, decoder = generator.rank, generator.decoder
        both = decoder.l2(decoder.mlp(state).view(2 * r, r).relu()).reshape(2 * decoder.length, r)
        a, b = both[: decoder.length], both[decoder.length :]
        out, inside, height, width = (*shape, 1, 1)[:4]
        rows, columns = min(out, generator.max_shape[0]), min(inside, generator.max_shape[1])
        w = (a[: rows * height] @ b[: columns * width].t()).view(rows, height, columns, width).transpose(1, 2)
    else:
        out, inside, height, width = (*shape, 1, 1)[:4]
        max_out, max_in, side, _ = generator.max_shape
        grid = F.relu(generator.decoder.fc[0](state)).view(4 * d, side, side)
        if isinstance(generator.gnn, nn.ModuleList):
            top, left = side // 2 - height // 2, side // 2 - width // 2
        else:
            top = left = 0
        grid = grid[:, top : top + height, left : left + width].permute(1, 2, 0)
        w = generator.decoder.conv(grid).view(height, width, max_out, max_in).permute(2, 3, 0, 1)
        if target.kind == "class_weight":
            w = generator.decoder.class_layer_predictor(w[:, :, 0, 0].t()).t()[:, :, None, None]
        w = w[:out, :inside]
    index = torch.arange(out) % len(w), torch.arange(inside) % w.shape[1]
    w = w[index[0]][:, index[1]].reshape(shape)
    if generator.language:
        return w / (w.std() + 1e-7) * 0.02
    if not generator.weight_norm:
        return w
    beta = 1 if len(shape) > 2 and (inside == 1 or height < width) else 2
    return w * (beta / (inside * height * width)) ** 0.5


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_those_of_the_formulas(name, net, view):
    generator = make(name)
    with torch.no_grad():
        graph = released_graph(hypergen.trace(net, IMAGE), generator.language)
        parameters, states = quiet(generator, graph), generator.encode(graph)
        for target in graph.targets:
            if len(target.shape) > 1:
                expected = _by_formula(generator, states[target.node], target)
                torch.testing.assert_close(parameters[target.name], expected, rtol=1e-3, atol=1e-5)


def test_vectors_are_those_of_the_formulas(net, view):
    generator = make("ghn-3")
    with torch.no_grad():
        parameters, states = quiet(generator, view), generator.encode(view)
        weight, bias = generator.decoder_1d(states[2]).view(2, -1)
        torch.testing.assert_close(parameters["norm.weight"][:8], 2 * torch.sigmoid(weight / 2))
        torch.testing.assert_close(parameters["norm.weight"][8:], parameters["norm.weight"][:4])
        torch.testing.assert_close(parameters["norm.bias"][:8], torch.tanh(0.2 * bias))
        classes = generator.bias_class(generator.decoder_1d(states[21]).view(2, -1)[1])
        torch.testing.assert_close(parameters["head.bias"], torch.tanh(0.2 * classes[:10]))


def test_vectors_of_logah_depend_on_the_rounded_length():
    generator = make("logah")
    state = torch.randn(16)
    with torch.no_grad():
        decoder = generator.decoder
        both = decoder.l2(decoder.mlp(state).view(8, 4).relu()).reshape(1024, 4)
        for length, rounded in ((12, 32), (9, 12), (10, 10), (40, 32)):
            values = both[: 2 * rounded] @ both[512]
            torch.testing.assert_close(decoder.pairs(state[None], length)[0], values.view(2, rounded))


def test_gated_graph_network_hears_along_virtual_edges(view):
    generator = make("ghn-2")
    distances = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 0, 0]])
    x = torch.randn(3, 16)
    gnn = generator.gnn
    with torch.no_grad():
        h = [gnn.gru(torch.zeros(1, 16), x[:1])[0]]
        h.append(gnn.gru(gnn.mlp(h[0]) + gnn.mlp_ve(h[0]), x[1]))
        h.append(gnn.gru(gnn.mlp(h[1]) + gnn.mlp_ve(h[1]) + gnn.mlp_ve(h[0]) / 2, x[2]))
        back = [gnn.gru(torch.zeros(16), h[2])]
        back.append(gnn.gru(gnn.mlp(back[0]) + gnn.mlp_ve(back[0]), h[1]))
        back.append(gnn.gru(gnn.mlp(back[1]) + gnn.mlp_ve(back[1]) + gnn.mlp_ve(back[0]) / 2, h[0]))
        torch.testing.assert_close(gnn(x, distances), torch.stack(back[::-1]))


def test_sizes_go_to_the_nearest_row():
    encoder = ShapeEncoder(16, 10, 11, language=False)
    assert len(encoder.channels) + 1 == 392 and len(encoder.sides) + 1 == 9
    assert len(ShapeEncoder(16, 1000, 16, language=True).channels) + 1 == 395
    row = encoder._row
    assert row((64, 3, 3, 3)) == (encoder.channels.index(64), encoder.channels.index(3), 1, 1)
    assert row((5, 70, 2, 16)) == (encoder.channels.index(8), encoder.channels.index(64), 1, len(encoder.sides) - 1)
    assert row((72, 10**6, 4, 99)) == (encoder.channels.index(64), len(encoder.channels) - 1, 1, len(encoder.sides) - 1)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("ghn-1", 1.62), ("ghn-2", 1.62), ("ghn-3-t", 6.91), ("logah-tiny", 2.54), ("logah-tiny-8k", 5.78)],
)
def test_variants_have_the_published_numbers_of_parameters(name, millions):
    with pytest.warns(UserWarning, match="has not been trained"):
        generator = load_generator(name)
    count = sum(parameter.numel() for parameter in generator.parameters()) / 1e6
    # LoGAH's files carry layers that are never called, which are in the published counts.
    assert count == pytest.approx(millions, abs=0.02)
    state, again = generator.state_dict(), untrained(name).state_dict()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def _published_state(generator):
    """The state dict as the published training writes it."""
    state = {}
    for key, value in generator.state_dict().items():
        if (
            not generator.rank
            and isinstance(generator.gnn, nn.Module)
            and key.startswith("decoder.")
            and value.dim() == 2
        ):
            if not isinstance(generator.gnn, nn.ModuleList) and "fc" not in key:
                value = value[:, :, None, None]
        if key.startswith(("centrality", "input_dist")):
            key = f"gnn.0.{key}"
        state[key] = value.clone()
    if generator.rank:
        state |= {f"decoder.seq.1.{p}": state[f"decoder.l2.{p}"] for p in ("weight", "bias")}
        r = generator.rank
        state |= {"decoder.l1.weight": torch.zeros(r, r), "decoder.l1.bias": torch.zeros(r)}
        state |= {"decoder_1d.0.weight": torch.zeros(1, 1), "bias_class.1.weight": torch.zeros(1, 1)}
    return state


@pytest.mark.parametrize("name", SMALL)
def test_reads_a_checkpoint_of_their_training(name, net, tmp_path):
    generator = make(name)
    config = {"hid": 16, "max_shape": SMALL[name]["max_shape"], "num_classes": SMALL[name].get("num_classes", 1000)}
    config |= {"heads": 8, "weight_norm": generator.weight_norm, "ve": generator.cutoff > 1}
    content = {
        "state_dict": _published_state(generator),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "config": config,
    }
    torch.save(content, tmp_path / "x.pt")
    loaded = load_generator(tmp_path / "x.pt")
    assert loaded.config == generator.config
    with torch.no_grad():
        one, other = (quiet(g.generate, net, example_inputs=IMAGE) for g in (generator, loaded))
    assert all(torch.equal(other[key], value) for key, value in one.items())


def _joblib(state, path):
    """What joblib writes of a bare state dict: one pickle, in which each storage is the bytes of a file of its own."""
    with open(path, "wb") as file:
        pickle.dump(state, file, protocol=4)


def test_reads_a_bare_state_dict_by_joblib(tmp_path):
    generator = make("ghn-3")
    _joblib(_published_state(generator), tmp_path / "ghn3.pt")
    loaded = read_released(tmp_path / "ghn3.pt")
    assert loaded.config == generator.config
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in generator.state_dict().items())


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code was run')",))


@pytest.mark.parametrize("write", [_joblib, torch.save])
def test_no_code_is_run(tmp_path, write):
    write({"state_dict": _Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointError, match="(could not be read without running code|which is not read)"):
        load_generator(tmp_path / "bomb.pt")


def test_names_every_tensor_that_does_not_fit(tmp_path):
    state = _published_state(make("ghn-3"))
    del state["ln.bias"]
    state["gnn.1.ln2.weight"] = torch.zeros(7)
    state["surprise"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as error:
        load_generator(tmp_path / "x.pt")
    for part in ("missing ln.bias", "unknown surprise", "gnn.1.ln2.weight is [7] instead of [16]"):
        assert part in str(error.value)


@pytest.mark.parametrize("content", [{"state_dict": {"weight": torch.zeros(2)}}, {"a": 1}, [1, 2]])
def test_refuses_other_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="expected|Expected"):
        load_generator(tmp_path / "x.pt")


def test_a_truncated_file_is_told(tmp_path):
    torch.save({"state_dict": _published_state(make("ghn-3"))}, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_generator(tmp_path / "x.pt")


def test_released_files_come_from_the_hub(monkeypatch, tmp_path):
    import huggingface_hub

    generator = make("ghn-3")
    _joblib(_published_state(generator), tmp_path / "ghn3tm8.pt")
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args: asked.append(args) or tmp_path / args[1])
    assert load_generator("ghn3tm8.pt").config == generator.config
    assert asked == [("SamsungSAILMontreal/ghn3", "ghn3tm8.pt")]

    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(CheckpointError, match="no network"):
        load_generator("ghn3tm8.pt")


def test_unknown_names_get_near_ones():
    with pytest.raises(UnknownNameError, match="logah-tiny"):
        load_generator("logah-tiyn")


def test_wide_layers_are_told_or_refused(net):
    with pytest.warns(UserWarning, match="weights are wider than the 8 × 8"), torch.no_grad():
        make("ghn-3").generate(net, example_inputs=IMAGE)
    with pytest.raises(GeneratorError, match="wider than the 8 × 8.*attention.in_proj_weight"):
        make("ghn-3", strict_size=True).generate(net, example_inputs=IMAGE)


def test_parameters_without_a_node_keep_the_networks_values():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.scale = nn.Parameter(torch.full((1, 1, 8), 3.0)), nn.Parameter(torch.full((8,), 5.0))
            self.positions = nn.Parameter(torch.zeros(1, 17, 8))
            self.mix = nn.Linear(8, 8)

        def forward(self, x):
            x = torch.cat((self.token.expand(len(x), -1, -1), x), 1) + self.positions
            return self.mix(x) * self.scale

    inputs = torch.zeros(1, 16, 8)
    model = Tokens()
    with torch.no_grad():
        parameters = quiet(make("ghn-3").generate, model, example_inputs=inputs)
        assert torch.equal(parameters["token"], model.token) and torch.equal(parameters["scale"], model.scale)
        again = quiet(make("ghn-3").generate, model.to("meta"), example_inputs=inputs)
    assert torch.equal(again["scale"], torch.ones(8)) and 0 < again["token"].std() < 0.1
    table = parameters["positions"]
    assert table.shape == (1, 17, 8) and torch.equal(table, again["positions"])
    assert not torch.equal(table[0, 1], table[0, 2])


@pytest.mark.parametrize("name", ["ghn-2-mip", "ghn-3-t-mip", "logah-tiny-mip"])
def test_published_sizes_with_magnitude_invariant_heads(name):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    with pytest.warns(UserWarning, match="has not been trained"):
        generator = load_generator(name)
    assert generator.config["parametrization"] == "magnitude_invariant"
    parameters = generator.generate(net, example_inputs=torch.zeros(1, 3, 8, 8))
    assert parameters.keys() == dict(net.named_parameters()).keys()
    with pytest.warns(UserWarning):
        again = load_generator(name).generate(net, example_inputs=torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(again[key], value) for key, value in parameters.items())


def test_the_average_behind_a_convolutional_classifier_stands_before_it():
    """As the published code reorders the last nodes of SqueezeNet, whose edges stay a chain."""
    body = [nn.Conv2d(3, 8, 3), nn.ReLU()]
    net = nn.Sequential(*body, nn.Conv2d(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    view = released_graph(hypergen.trace(net, IMAGE))
    assert [PRIMITIVES[i] for i in view.primitives[-3:]] == ["glob_avg", "conv", "bias"]
    count = len(view.primitives)
    assert {target.name: (target.node, target.kind) for target in view.targets if target.name.startswith("2.")} == {
        "2.weight": (count - 2, "class_weight"),
        "2.bias": (count - 1, "class_bias"),
    }
    assert [view.distances[i, i + 1].item() for i in range(count - 3, count - 1)] == [1, 1]
    usual = released_graph(hypergen.trace(nn.Sequential(*body, nn.Conv2d(8, 10, 3)), IMAGE))
    assert PRIMITIVES[usual.primitives[-1]] == "bias"
    parameters = quiet(make("ghn-3").generate, net, example_inputs=IMAGE)
    assert parameters["2.weight"].shape == (10, 8, 1, 1)
