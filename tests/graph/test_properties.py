"""What a right graph fulfils; that each property can be violated; one form of attributes; the vocabulary."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import hypergen  # noqa: F401  (declares what torchvision's import needs)
from hypergen.graph import trace
from hypergen.graph.computational_graph import edge_tensor
from hypergen.graph.properties import violations
from hypergen.graph.vocabulary import OPERATIONS
from tests.graph.tracing.hand_written import Net, parameter


def example():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    return net, trace(net, torch.zeros(1, 3, 8, 8))


def changed(graph, index, **changes):
    return replace(graph, nodes=tuple(replace(n, **changes) if i == index else n for i, n in enumerate(graph.nodes)))


def test_a_traced_graph_is_right():
    net, graph = example()
    assert violations(graph, net) == []


@pytest.mark.parametrize(
    ("breaking", "complaint"),
    [
        (lambda g: replace(g, edges=g.edges.flip(0)), "does not go forwards"),
        (lambda g: replace(g, edges=torch.cat([g.edges, g.edges[:, :1]], 1)), "is there 2 times"),
        (lambda g: replace(g, edges=g.edges[:, [0, 1, 3, 4]]), "comes from no input and no parameter"),
        (lambda g: replace(g, edges=edge_tensor([(0, 1), (1, 2), (2, 3), (2, 4), (4, 5)])), "reaches no output"),
        (lambda g: changed(g, 1, op="input"), "is an input that something feeds"),
        (lambda g: changed(g, 2, parameters=g.nodes[1].parameters), "'0.weight' is on 2 nodes"),
        (lambda g: changed(g, 5, parameters={}), "neither on a node nor listed as unused"),
        (lambda g: replace(g, unused_parameters=("4.bias",)), "on a node and listed as unused"),
        (lambda g: changed(g, 1, shared={"weight": "4.weight"}), "which no earlier node owns"),
        (lambda g: changed(g, 3, parameters={"slope": "2.weight"}), "is no parameter of the network"),
        (lambda g: replace(g, parameter_shapes={**g.parameter_shapes, "4.bias": (3,)}), "are not those of the model"),
        (lambda g: changed(g, 3, module="head"), "names a module that the model does not have"),
        (lambda g: changed(g, 5, shape=(1, 3)), "has other features than its weight (2, 144)"),
        (lambda g: changed(g, 4, shape=(1, 100)), "has not the values of"),
        (lambda g: changed(g, 1, shape=(1, 5, 6, 6)), "has other channels than its weight"),
        (lambda g: changed(g, 0, shape=(1, 1, 8, 8)), "does not fit its weight (4, 3, 3, 3) in 1 groups"),
        (lambda g: changed(g, 2, shape=(1, 7, 6, 6)), "does not fit its weight (4,)"),
        (lambda g: changed(g, 3, op="_relu_"), "has a name that is no field term"),
        (lambda g: changed(g, 1, attributes={"stride": (1, 1)}), "lacks the attributes padding, dilation, groups"),
    ],
)
def test_every_property_can_be_violated(breaking, complaint):
    net, graph = example()
    assert any(complaint in violation for violation in violations(breaking(graph), net))


# A sample of the sweep


def torchvision(name):
    def build():
        return pytest.importorskip("torchvision").models.get_model(name)

    return pytest.param(build, id=f"torchvision:{name}")


def timm(name):
    def build():
        return pytest.importorskip("timm").create_model(name)

    return pytest.param(build, id=f"timm:{name}")


def hugging_face(model, config, **sizes):
    def build():
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, model)(getattr(transformers, config)(**sizes))

    return pytest.param(build, id=f"hf:{model}")


BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
SAMPLE = [
    *map(torchvision, ["googlenet", "shufflenet_v2_x0_5", "densenet121", "convnext_tiny", "swin_v2_t", "mnasnet0_5"]),
    *map(timm, ["dm_nfnet_f0", "convit_tiny", "mvitv2_tiny", "levit_128", "xcit_nano_12_p16_224", "gernet_s"]),
    hugging_face("BertForMaskedLM", "BertConfig", **BERT),
    hugging_face("LlamaForCausalLM", "LlamaConfig", **BERT, num_key_value_heads=1),
    hugging_face("T5Model", "T5Config", d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, vocab_size=50),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", SAMPLE)
def test_graphs_of_known_networks_are_right(build):
    with torch.device("meta"):
        model = build()
    assert violations(trace(model), model) == []


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224"])
def test_fused_and_written_out_attention_of_timm_are_the_same_graph(name):
    layers = pytest.importorskip("timm.layers")
    graphs = []
    before = layers.config._USE_FUSED_ATTN
    try:
        for fused in (True, False):
            layers.set_fused_attn(fused)
            graphs.append(read(timm(name).values[0]()))
    finally:
        layers.config._USE_FUSED_ATTN = before
    assert graphs[0] == graphs[1]
    assert "scaled_dot_product_attention" in [node[0] for node in graphs[0]]


@pytest.mark.parametrize(
    "network",
    [
        hugging_face("BertModel", "BertConfig", **BERT),
        hugging_face("GPT2Model", "GPT2Config", n_layer=2, n_embd=16, n_head=2, vocab_size=50),
        hugging_face("LlamaModel", "LlamaConfig", **BERT, num_key_value_heads=1),
        hugging_face("ViTModel", "ViTConfig", **BERT | {"vocab_size": None}, image_size=32, patch_size=16),
    ],
)
def test_eager_and_fused_attention_of_hugging_face_are_the_same_graph(network):
    graphs = []
    for implementation in ("eager", "sdpa"):
        model = network()
        model.set_attn_implementation(implementation)
        graphs.append(read(model))
    assert graphs[0] == graphs[1]
    assert [node[0] for node in graphs[0]].count("scaled_dot_product_attention") == 2


def read(model):
    """What a generator reads of a network's nodes, and where they come from."""
    from hypergen.generators.ghn.features import CONTRACTED

    graph = trace(model).without(CONTRACTED)
    incoming = [[] for _ in graph.nodes]
    for source, target in graph.edges.t().tolist():
        incoming[target].append(source)
    told = [{key: value for key, value in n.attributes.items() if key != "is_causal"} for n in graph.nodes]
    return [(n.op, incoming[i], sorted(n.parameters.values()), n.shape, told[i]) for i, n in enumerate(graph.nodes)]


# Attributes in one form


def node_of(function, *shapes, **parts):
    graph = trace(Net(lambda self, *inputs: function(self, *inputs), **parts), tuple(map(torch.zeros, shapes)))
    assert violations(graph) == []
    return graph.nodes[-1]


IMAGE = (1, 4, 6, 6)
FORMS = {
    "conv2d": [
        lambda self, x: F.conv2d(x, self.weight, None, 2),
        lambda self, x: F.conv2d(x, self.weight, stride=(2, 2), dilation=1),
        lambda self, x: F.conv2d(weight=self.weight, input=x, padding=[0], stride=[2]),
        lambda self, x: torch.conv2d(x, self.weight, None, (2, 2), (0, 0), (1, 1), 1),
    ],
    "cat": [
        lambda self, x: torch.cat([x, x.relu()]),
        lambda self, x: torch.cat((x, x.relu()), dim=-4),
        lambda self, x: torch.cat(tensors=(x, x.relu()), dim=0),
        lambda self, x: torch.concat((x, x.relu()), axis=0),
    ],
    "softmax": [
        lambda self, x: x.softmax(-1),
        lambda self, x: F.softmax(x, dim=3),
        lambda self, x: torch.softmax(input=x, dim=-1),
        lambda self, x: nn.Softmax(3)(x),
    ],
    "permute": [
        lambda self, x: x.permute(0, 2, 3, 1),
        lambda self, x: x.permute((0, -2, -1, 1)),
        lambda self, x: torch.permute(x, [0, 2, 3, 1]),
        lambda self, x: torch.permute(x, dims=(0, 2, 3, 1)),
    ],
    "transpose": [
        lambda self, x: x.mT,
        lambda self, x: x.transpose(-1, -2),
        lambda self, x: torch.transpose(x, dim1=2, dim0=3),
        lambda self, x: x.swapaxes(2, 3),
        lambda self, x: x.adjoint(),
    ],
    "mean": [
        lambda self, x: x.mean((2, 3)),
        lambda self, x: x.mean(dim=[-2, -1]),
        lambda self, x: torch.mean(x, (2, 3), keepdim=True),
        lambda self, x: x.mean(axis=(2, 3)),
    ],
    "max_pool2d": [
        lambda self, x: F.max_pool2d(x, 2),
        lambda self, x: nn.MaxPool2d((2, 2))(x),
        lambda self, x: F.max_pool2d(x, kernel_size=2, stride=[2, 2]),
        lambda self, x: F.max_pool2d(x, 2, return_indices=True)[0],
    ],
    "split": [
        lambda self, x: x.split([1, 3], 1),
        lambda self, x: torch.split(x, [1, 3], dim=-3),
        lambda self, x: x.split_with_sizes((1, 3), dim=1),
    ],
    "flatten": [
        lambda self, x: x.flatten(1),
        lambda self, x: torch.flatten(x, start_dim=1, end_dim=3),
        lambda self, x: nn.Flatten()(x),
    ],
}


@pytest.mark.parametrize("op", FORMS)
def test_attributes_do_not_depend_on_how_arguments_are_given(op):
    nodes = [node_of(form, IMAGE, weight=parameter(2, 4, 3, 3)) for form in FORMS[op]]
    assert {node.op for node in nodes} == {op}
    assert all(node.attributes == nodes[0].attributes for node in nodes)
    assert all(node.parameters == nodes[0].parameters for node in nodes)


def test_the_order_of_keyword_arguments_does_not_matter():
    def forward(self, q, k, v):
        return torch.sub(other=F.scaled_dot_product_attention(value=v, key=k, query=q), input=q)

    graph = trace(Net(forward), (torch.zeros(2, 5, 4),) * 3)
    assert graph.edges.t().tolist() == [[0, 3], [1, 3], [2, 3], [0, 4], [3, 4]]


# Outputs


class Result:
    def __init__(self, hidden, logits):
        self.hidden, self.logits, self.name = hidden, logits, "result"


def test_outputs_are_found_in_objects_of_the_network_and_in_contracted_graphs():
    def forward(self, x):
        hidden = self.first(x)
        return Result(hidden.flatten().view(-1, 3), self.last(hidden.relu()))

    graph = trace(Net(forward, first=nn.Linear(6, 6), last=nn.Linear(6, 2)), torch.zeros(2, 6))
    assert [graph.nodes[i].op for i in graph.outputs] == ["reshape", "linear"]
    contracted = graph.without(["flatten", "reshape"])
    assert [contracted.nodes[i].parameters["weight"] for i in contracted.outputs] == ["first.weight", "last.weight"]


def test_nothing_is_left_out_where_the_outputs_are_not_known():
    def forward(self, x):
        self.kept = (x * 2).exp()

    graph = trace(Net(forward), torch.zeros(2, 6))
    assert [node.op for node in graph.nodes] == ["input", "mul", "exp"]
    assert graph.outputs == () and violations(graph) == []


# Vocabulary


def test_operations_without_a_type_of_their_own_are_listed():
    net = Net(lambda self, x: torch.erfinv(torch.lgamma(self.layer(x)).lgamma().view(3)), layer=nn.Linear(6, 3))
    graph = trace(net, torch.zeros(1, 6))
    assert dict(graph.unknown_operations) == {"lgamma": 2, "erfinv": 1}
    assert not {"lgamma", "erfinv"} & set(OPERATIONS)


def test_reflected_operators_have_the_names_of_the_operators():
    def forward(self, x):
        return (True & (x > 0)) | (2 - x < 1 / x) | (2**x == 3 * x)

    ops = {node.op for node in trace(Net(forward), torch.zeros(2, 2)).nodes}
    assert ops == {"input", "gt", "bitwise_and", "sub", "div", "lt", "bitwise_or", "pow", "mul", "eq"}
