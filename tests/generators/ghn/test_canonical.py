"""Two spellings of one function get the same parameters, up to the layout of the tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hypergen
from hypergen.generators.ghn.model import GraphHypernetwork

WIDTH, HEADS, TOKENS = 8, 2, 16


class Net(nn.Module):
    """Patches, one attention block, and a head; each part in one of its spellings."""

    def __init__(
        self, patches="linear", attention="separate", written="fused", order="qkv", merge="reshape", pool="mean",
        head="linear", split="chunk",
    ):  # fmt: skip
        super().__init__()
        self.options = (patches, attention, written, order, merge, pool, head, split)
        if patches in ("linear", "linear_unfold"):
            self.embed = nn.Linear(16, WIDTH)
        else:
            self.embed = nn.Conv2d(1, WIDTH, 4, 4)
        self.norm = nn.LayerNorm(WIDTH)
        if attention == "separate":
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        elif attention == "conv":
            self.q, self.k, self.v = (nn.Conv1d(WIDTH, WIDTH, 1) for _ in range(3))
        elif attention == "mha":
            self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        else:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        if attention != "mha":
            self.out = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Conv1d(WIDTH, 3, 1) if head == "conv" else nn.Linear(WIDTH, 3)

    def forward(self, x):
        patches, attention, written, order, merge, pool, head, split = self.options
        b = len(x)
        if patches == "linear":
            x = self.embed(x.reshape(b, 1, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, TOKENS, 16))
        elif patches == "linear_unfold":
            x = self.embed(x.view(b, 4, 4, 4, 4).transpose(2, 3).flatten(3).flatten(1, 2))
        elif patches == "conv":
            x = self.embed(x).flatten(2).transpose(1, 2)
        else:
            x = self.embed(x).permute(0, 2, 3, 1).view(b, TOKENS, WIDTH)
        y = self.norm(x) if patches != "conv" else F.layer_norm(x, (WIDTH,), self.norm.weight, self.norm.bias)
        x = x + self.attend(y)
        x = {"mean": lambda: x.mean(1), "pool": lambda: F.adaptive_avg_pool1d(x.transpose(1, 2), 1).flatten(1)}[pool]()
        return self.head(x[..., None]).flatten(1) if head == "conv" else self.head(x)

    def attend(self, y):
        patches, attention, written, order, merge, pool, head, split = self.options
        b = len(y)
        if attention == "mha":
            return self.mha(y, y, y, need_weights=False)[0]
        if attention == "separate":
            parts = {name: getattr(self, name)(y) for name in order}
            q, k, v = (parts[name].view(b, TOKENS, HEADS, -1).transpose(1, 2) for name in "qkv")
        elif attention == "conv":
            q, k, v = (
                getattr(self, name)(y.transpose(1, 2)).view(b, HEADS, -1, TOKENS).transpose(2, 3) for name in "qkv"
            )
        elif split == "chunk":
            q, k, v = (p.reshape(b, TOKENS, HEADS, -1).transpose(1, 2) for p in self.qkv(y).chunk(3, -1))
        elif split == "split":
            q, k, v = (p.view(b, TOKENS, HEADS, -1).permute(0, 2, 1, 3) for p in self.qkv(y).split(WIDTH, 2))
        else:
            q, k, v = self.qkv(y).reshape(b, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if written == "fused":
            z = F.scaled_dot_product_attention(q, k, v)
        elif written == "matmul":
            z = (q @ k.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        else:
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / (WIDTH // HEADS) ** 0.5
            z = torch.einsum("bhij,bhjd->bhid", F.softmax(scores, dim=-1), v)
        if merge == "reshape":
            return self.out(z.transpose(1, 2).reshape(b, TOKENS, WIDTH))
        return self.out(z.permute(0, 2, 1, 3).flatten(2))

    def canonical(self, parameters):
        """The parameters under common names and shapes."""
        result = {}
        for name, value in parameters.items():
            module, kind = name.split(".", 1)
            if module in ("qkv", "mha") and (module == "qkv" or kind.startswith("in_proj")):
                for part, block in zip("qkv", value.chunk(3), strict=True):
                    result[f"{part}.{kind.removeprefix('in_proj_')}"] = block
            elif module == "mha":
                result[kind.replace("out_proj", "out")] = value
            else:
                result[name] = value
        return {name: value.flatten(1) if value.dim() > 1 else value for name, value in result.items()}


TOKEN_NETS = {
    "fused, chunk": {"attention": "fused"},
    "fused, split": {"attention": "fused", "split": "split"},
    "fused, unbind": {"attention": "fused", "split": "unbind"},
    "MultiheadAttention": {"attention": "mha"},
    "1x1 convolutions": {"attention": "conv"},
    "written out": {"written": "matmul"},
    "einsum": {"written": "einsum"},
    "fused, written out": {"attention": "fused", "written": "matmul", "split": "unbind"},
    "fused, einsum": {"attention": "fused", "written": "einsum"},
    "key first": {"order": "kqv"},
    "values first": {"order": "vkq", "written": "matmul"},
    "patches by convolution": {"patches": "conv"},
    "patches by convolution, permuted": {"patches": "conv_last"},
    "patches by transpose": {"patches": "linear_unfold"},
    "permute and flatten": {"merge": "flatten"},
    "adaptive pooling": {"pool": "pool"},
    "head by convolution": {"head": "conv"},
    "all at once": {"patches": "conv", "attention": "mha", "pool": "pool", "head": "conv"},
}


class ConvNet(nn.Module):
    def __init__(self, pointwise="conv", layout="first", flat="flatten", names=True):
        super().__init__()
        self.pointwise, self.layout, self.flat, self.functional = pointwise, layout, flat, not names
        self.a, self.norm = nn.Conv2d(1, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 8, 1) if pointwise == "conv" else nn.Linear(6, 8)
        self.c = nn.Conv2d(8, 4, 3, 2, 1)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x):
        x = self.norm(self.a(x)) if not self.functional else F.batch_norm(
            F.conv2d(x, self.a.weight, padding=1), self.norm.running_mean, self.norm.running_var, self.norm.weight,
            self.norm.bias, False,
        )  # fmt: skip
        x = x.relu() if self.functional else F.relu(x)
        if self.pointwise == "conv":
            x = self.b(x)
        elif self.layout == "movedim":
            x = self.b(x.movedim(1, -1)).movedim(-1, 1)
        else:
            x = self.b(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = F.silu(self.c(x))
        if self.flat == "last":
            return self.head(x.permute(0, 2, 3, 1).reshape(len(x), -1))
        return self.head(x.flatten(1) if self.flat == "flatten" else x.view(x.size(0), -1))

    def canonical(self, parameters):
        result = {name: value.flatten(1) if value.dim() > 1 else value for name, value in parameters.items()}
        if self.flat == "last":
            weight = result["head.weight"]
            result["head.weight"] = weight.view(3, 4, 4, 4).permute(0, 3, 1, 2).flatten(1)
        return result


CONV_NETS = {
    "linear for 1x1": {"pointwise": "linear"},
    "linear for 1x1, movedim": {"pointwise": "linear", "layout": "movedim"},
    "view": {"flat": "view"},
    "channels last": {"flat": "last"},
    "functional": {"names": False},
    "all at once": {"pointwise": "linear", "flat": "last", "names": False},
}


def generator(**arguments) -> GraphHypernetwork:
    torch.manual_seed(0)
    small = {"hidden": 32, "reach": 4, "heads": 4, "rank": 16, "steered_rank": 8, "width": 16}
    reads = {"graphs": "canonical", "channel_identity": True}
    made = GraphHypernetwork(**{**small, **reads, **arguments})
    with torch.no_grad():  # far from the start, where nodes hardly differ
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def assert_same(one, other, shape):
    made = generator()
    x = torch.zeros(shape)
    first = one.canonical(hypergen.predict_params(one, made, example_inputs=x))
    second = other.canonical(hypergen.predict_params(other, made, example_inputs=x))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-5), (name, (value - second[name]).abs().max())


@pytest.mark.parametrize("name", TOKEN_NETS)
def test_spellings_of_token_networks(name):
    assert_same(Net(), Net(**TOKEN_NETS[name]), (1, 1, 16, 16))


@pytest.mark.parametrize("name", CONV_NETS)
def test_spellings_of_convolutional_networks(name):
    assert_same(ConvNet(), ConvNet(**CONV_NETS[name]), (1, 1, 8, 8))


@pytest.mark.parametrize("options", [{"attention": "fused"}, {"attention": "mha"}, {"patches": "linear_unfold"}])
@pytest.mark.parametrize("identity", [True, False])
def test_gradients_and_the_fast_path_agree(options, identity):
    net, made = Net(**options), generator(channel_identity=identity)
    x = torch.zeros(1, 1, 16, 16)
    fast = hypergen.predict_params(net, made, example_inputs=x)
    slow = hypergen.predict_params(net, made, example_inputs=x, differentiable=True)
    assert list(fast) == [name for name, _ in net.named_parameters()]
    assert all(torch.allclose(fast[name], slow[name], atol=1e-5) for name in fast)
    assert all(value.grad_fn is not None for value in slow.values())
    parts = [[name] for name in fast]
    graph = hypergen.trace(net, x)
    for part in made.generate_in_parts(graph, parts):
        for name, value in part.items():
            assert torch.allclose(value, fast[name], atol=1e-5)
