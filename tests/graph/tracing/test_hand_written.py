"""Convolutional and fully connected networks, and what reads parameters in unusual ways, against graphs by hand."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.graph.tracing.hand_written import Net, check, parameter

VECTORS = torch.zeros(2, 6)
IMAGES = torch.zeros(2, 4, 8, 8)


def test_residual_block_with_activations_in_place():
    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.skip(x)
        return torch.relu_(y)

    net = Net(
        forward,
        conv1=nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), norm1=nn.BatchNorm2d(8),
        conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False), norm2=nn.BatchNorm2d(8),
        skip=nn.Conv2d(4, 8, 1, stride=2, bias=False),
    )  # fmt: skip
    check(net, IMAGES, """
        x = input()
        a = conv2d(x) weight=conv1.weight @stride=(2,2) @padding=(1,1) @dilation=(1,1) @groups=1
        b = batch_norm(a) [norm1]
        c = relu(b)
        d = conv2d(c) weight=conv2.weight @stride=(1,1)
        e = batch_norm(d) [norm2]
        f = conv2d(x) weight=skip.weight @padding=(0,0)
        g = add(e, f)
        h = relu(g)
        return h
    """)  # fmt: skip


def test_inception_block():
    def forward(self, x):
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1)
        return torch.cat((self.one(x), self.three(x), self.pool(pooled)), 1)

    net = Net(
        forward, one=nn.Conv2d(4, 2, 1), three=nn.Sequential(nn.Conv2d(4, 2, 1), nn.Conv2d(2, 3, 3, padding=1)),
        pool=nn.Conv2d(4, 1, 1),
    )  # fmt: skip
    check(net, IMAGES, """
        x = input()
        p = avg_pool2d(x) @kernel_size=(3,3) @stride=(1,1) @padding=(1,1)
        a = conv2d(x) [one]
        b = conv2d(x) [three.0]
        c = conv2d(b) [three.1]
        d = conv2d(p) [pool]
        y = cat(a, c, d) @dim=1
        return y
    """)  # fmt: skip


def test_squeeze_and_excitation():
    def forward(self, x):
        scale = F.adaptive_avg_pool2d(x, 1)
        scale = F.silu(self.reduce(scale), inplace=True)
        return x * torch.sigmoid(self.expand(scale))

    check(Net(forward, reduce=nn.Conv2d(4, 1, 1), expand=nn.Conv2d(1, 4, 1)), IMAGES, """
        x = input()
        s = adaptive_avg_pool2d(x) @output_size=(1,1)
        a = conv2d(s) [reduce]
        b = silu(a)
        c = conv2d(b) [expand]
        d = sigmoid(c)
        y = mul(x, d)
        return y
    """)  # fmt: skip


def test_depthwise_grouped_and_dilated_convolutions():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 8, 1, groups=2),
        nn.Conv2d(8, 2, (1, 3), dilation=2),
    )
    check(net, IMAGES, """
        x = input()
        a = conv2d(x) [0] @groups=4 @padding='same'
        b = conv2d(a) [1] @groups=2
        y = conv2d(b) [2] @groups=1 @dilation=(2,2)
        return y
    """)  # fmt: skip


def test_decoder_with_transposed_convolution_pixel_shuffle_and_interpolation():
    net = nn.Sequential(
        nn.ConvTranspose2d(4, 8, 2, stride=2), nn.PixelShuffle(2), nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 1)
    )
    graph = check(net, IMAGES, """
        x = input()
        a = conv_transpose2d(x) [0] @stride=(2,2) @output_padding=(0,0) @groups=1
        b = pixel_shuffle(a) @upscale_factor=2
        c = interpolate(b) @scale_factor=2.0 @mode='nearest'
        y = conv2d(c) [3]
        return y
    """)  # fmt: skip
    assert [node.shape for node in graph.nodes][1:] == [(2, 8, 16, 16), (2, 2, 32, 32), (2, 2, 64, 64), (2, 1, 64, 64)]


def test_convolution_flattened_into_a_linear_layer():
    net = nn.Sequential(nn.Conv1d(4, 2, 3), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 3), nn.LogSoftmax(-1))
    check(net, torch.zeros(2, 4, 8), """
        x = input()
        a = conv1d(x) [0] @stride=(1,)
        b = max_pool1d(a) @kernel_size=(2,) @stride=(2,)
        c = flatten(b) @start_dim=1 @end_dim=2
        d = linear(c) [3]
        y = log_softmax(d) @dim=1
        return y
    """)  # fmt: skip


def test_normalisations():
    net = nn.Sequential(
        nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm((8, 8)),
        nn.RMSNorm(8), nn.LocalResponseNorm(2), nn.BatchNorm2d(4, affine=False),
    )  # fmt: skip
    check(net, IMAGES, """
        x = input()
        a = batch_norm(x) [0]
        b = group_norm(a) [1] @num_groups=2
        c = instance_norm(b) [2]
        d = layer_norm(c) [3] @normalized_shape=(8,8)
        e = rms_norm(d) weight=4.weight @normalized_shape=(8,)
        f = local_response_norm(e)
        y = batch_norm(f)
        return y
    """)  # fmt: skip


def test_dense_block():
    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, dim=1))))
        return torch.concat(features, axis=-3)

    layers = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(2))
    check(Net(forward, layers=layers), IMAGES, """
        x = input()
        a = conv2d(x) [layers.0]       # the concatenation of one tensor is that tensor
        b = relu(a)
        c = cat(x, b) @dim=1
        d = conv2d(c) [layers.1]
        e = relu(d)
        y = cat(x, b, e) @dim=1
        return y
    """)  # fmt: skip


def test_gated_mlp():
    def forward(self, x):
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)

    check(Net(forward, up=nn.Linear(6, 16, bias=False), down=nn.Linear(8, 6)), VECTORS, """
        x = input()
        u = linear(x) weight=up.weight
        c = chunk(u) @chunks=2 @dim=1
        g = silu(c)
        m = mul(g, c)
        y = linear(m) [down]
        return y
    """)  # fmt: skip


def test_bilinear():
    net = Net(lambda self, x, y: self.layer(x, y), layer=nn.Bilinear(6, 5, 3))
    check(net, (VECTORS, torch.zeros(2, 5)), """
        x = input()
        y = input()
        z = bilinear(x, y) [layer]
        return z
    """)  # fmt: skip


def test_weight_norm_and_other_parametrizations():
    class Symmetric(nn.Module):
        def forward(self, weight):
            return weight.triu() + weight.triu(1).mT

    first = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    second = nn.utils.parametrize.register_parametrization(nn.Linear(6, 6), "weight", Symmetric()) or nn.Identity()
    check(nn.Sequential(first, second), VECTORS, """
        x = input()
        v = weight_norm() original1=0.parametrizations.weight.original1 original0=0.parametrizations.weight.original0
        a = linear(x, v) bias=0.bias
        t = triu() original=1.parametrizations.weight.original
        u = triu() ~original=1.parametrizations.weight.original @diagonal=1
        w = transpose(u) @dim0=0 @dim1=1
        s = add(t, w)
        y = linear(a, s) bias=1.bias
        return y
    """)  # fmt: skip


def test_weight_standardisation_reads_its_weight_more_than_once():
    def forward(self, x):
        weight = self.weight
        mean = weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = (weight - mean) / weight.std(dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)

    check(Net(forward, weight=parameter(3, 4, 3, 3), bias=parameter(3)), IMAGES, """
        x = input()
        m = mean() weight=weight @dim=(1,2,3)
        c = sub(m) ~weight=weight
        s = std() ~weight=weight @dim=(1,2,3)
        w = div(c, s)
        y = conv2d(x, w) bias=bias
        return y
    """)  # fmt: skip


def test_gate_that_is_read_by_two_operations_on_parameters_alone():
    def forward(self, x):
        gate = self.gate.view(1, -1)
        return (1 - torch.sigmoid(gate)) * x + torch.sigmoid(gate) * self.layer(x)

    check(Net(forward, gate=parameter(6), layer=nn.Linear(6, 6)), VECTORS, """
        x = input()
        g = sigmoid() gate=gate
        r = sub(g)
        a = mul(r, x)
        h = sigmoid() ~gate=gate
        b = linear(x) [layer]
        c = mul(h, b)
        y = add(a, c)
        return y
    """)  # fmt: skip


def test_raw_parameters_and_a_parameter_list_in_a_loop():
    def forward(self, x):
        for scale in self.scales:
            x = x * scale + self.shift
        return x

    net = Net(forward, shift=parameter(6), scales=nn.ParameterList([parameter(6), parameter(6)]))
    check(net, VECTORS, """
        x = input()
        a = mul(x) scales=scales.0
        b = add(a) shift=shift
        c = mul(b) scales=scales.1
        y = add(c) ~shift=shift
        return y
    """)  # fmt: skip


def test_module_that_is_called_twice():
    net = Net(lambda self, x: self.layer(torch.tanh(self.layer(x))), layer=nn.Linear(6, 6))
    check(net, VECTORS, """
        x = input()
        a = linear(x) [layer]
        t = tanh(a)
        y = linear(t) ~weight=layer.weight ~bias=layer.bias
        return y
    """)  # fmt: skip


def test_buffers_only():
    net = nn.Sequential(nn.BatchNorm1d(6, affine=False), nn.ReLU6(True))
    net.register_buffer("mean", torch.ones(6))
    check(Net(lambda self, x: self.net(x - self.net.mean), net=net), VECTORS, """
        x = input()
        a = sub(x)
        b = batch_norm(a)
        y = hardtanh(b)       # what nn.ReLU6 is
        return y
    """)  # fmt: skip


def test_lists_dicts_and_several_outputs():
    def forward(self, batch, *, extra):
        first, second = batch["pair"]
        hidden = self.layer(first)
        return {"hidden": hidden, "sums": [hidden + second, extra["scale"].exp()]}

    inputs = {"batch": {"pair": [VECTORS, VECTORS]}, "extra": {"scale": torch.zeros(3)}}
    check(Net(forward, layer=nn.Linear(6, 6)), inputs, """
        a = input()
        b = input()
        c = input()
        h = linear(a) [layer]
        s = add(h, b)
        e = exp(c)
        return h, s, e
    """)  # fmt: skip


def test_control_flow_by_shape():
    def forward(self, x):
        while x.shape[-1] > 3:
            x = self.halve[str(x.shape[-1])](x)
        return x if x.dim() == 2 else self.never(x)

    halve = nn.ModuleDict({"12": nn.Linear(12, 6), "6": nn.Linear(6, 3)})
    check(Net(forward, halve=halve, never=nn.Linear(3, 3)), torch.zeros(2, 12), """
        x = input()
        a = linear(x) [halve.12]
        y = linear(a) [halve.6]
        return y
    """, unused=("never.weight", "never.bias"))  # fmt: skip


def test_setitem_keeps_what_was_there():
    def forward(self, x):
        y = self.layer(x)
        y[:, :2] = torch.sigmoid(y[:, :2])
        y[:, 2:].mul_(self.scale)
        return y

    check(Net(forward, layer=nn.Linear(6, 6), scale=parameter(4)), VECTORS, """
        x = input()
        a = linear(x) [layer]
        b = getitem(a)
        c = sigmoid(b)
        d = setitem(a, c)
        e = getitem(d)
        f = mul(e) scale=scale
        y = setitem(d, f)
        return y
    """)  # fmt: skip


def test_buffer_that_is_overwritten_without_being_read():
    def forward(self, x):
        out = torch.empty(2, 8)
        out[:, :5].copy_(self.layer(x))
        out.narrow(1, 5, 3).zero_()
        return out + 1

    check(Net(forward, layer=nn.Linear(6, 5)), VECTORS, """
        x = input()
        a = linear(x) [layer]
        b = setitem(a)        # into memory without values
        c = setitem(b)        # zeros beside it
        y = add(c)
        return y
    """)  # fmt: skip


def test_mixture_of_the_best_experts():
    def forward(self, x):
        weights, indices = torch.topk(self.router(x).softmax(-1), k=2)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
        chosen = outputs.gather(1, indices[..., None].expand(-1, -1, 6))
        return torch.einsum("bk,bkd->bd", weights, chosen)

    experts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)])
    check(Net(forward, router=nn.Linear(6, 3), experts=experts), VECTORS, """
        x = input()
        r = linear(x) [router]
        s = softmax(r) @dim=1
        t = topk(s) @k=2 @dim=1
        a = linear(x) [experts.0]
        b = linear(x) [experts.1]
        c = linear(x) [experts.2]
        o = stack(a, b, c) @dim=1
        i = getitem(t)
        e = expand(i)
        g = gather(o, e) @dim=1
        y = einsum(t, g) @equation='bk,bkd->bd'
        return y
    """)  # fmt: skip


def test_vector_quantiser():
    def forward(self, x):
        distances = torch.cdist(x, self.codes)
        quantised = F.embedding(distances.argmin(dim=-1), self.codes)
        return x + (quantised - x).detach()

    check(Net(forward, codes=parameter(10, 6)), VECTORS, """
        x = input()
        d = cdist(x) codes=codes
        i = argmin(d) @dim=1
        q = embedding(i) ~weight=codes
        r = sub(q, x)
        y = add(x, r)
        return y
    """)  # fmt: skip
