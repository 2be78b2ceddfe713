"""Properties of the graphs of networks that everybody knows."""

import pytest
import torch

import hypergen  # noqa: F401  (declares what torchvision's import needs)
from hypergen.graph import trace


def resnet18():
    return pytest.importorskip("torchvision").models.resnet18()


def resnet50():
    return pytest.importorskip("torchvision").models.resnet50()


def mobilenet():
    return pytest.importorskip("torchvision").models.mobilenet_v3_small()


def vit():
    return pytest.importorskip("torchvision").models.vit_b_32()


def swin():
    return pytest.importorskip("torchvision").models.swin_t()


def efficientnet():
    return pytest.importorskip("timm").create_model("efficientnet_b0")


def gpt2():
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=3))


@pytest.fixture(scope="module", params=[resnet18, resnet50, mobilenet, vit, swin, efficientnet, gpt2])
def network(request):
    with torch.device("meta"):
        model = request.param()
    return request.param.__name__, model, trace(model)


def test_edges_go_forwards(network):
    _, _, graph = network
    source, target = graph.edges
    assert bool((source < target).all())
    assert len(set(map(tuple, graph.edges.t().tolist()))) == graph.edges.shape[1]
    assert graph.edges.dtype == torch.int64


def test_every_parameter_is_on_one_node(network):
    _, model, graph = network
    read = [name for node in graph.nodes for name in node.parameters.values()]
    assert sorted(read) == sorted(name for name, _ in model.named_parameters())
    assert graph.unused_parameters == ()
    assert len(graph.readers) == len(read)
    assert all(graph.nodes[i].parameters[role] == name for name, (i, role) in graph.readers.items())


def test_every_node_comes_from_an_input_or_a_parameter(network):
    _, _, graph = network
    fed = set(graph.edges[1].tolist())
    roots = [node for i, node in enumerate(graph.nodes) if i not in fed]
    assert all(node.op == "input" or node.parameters for node in roots)
    assert bool((graph.shortest_paths()[0, -1] > 0).item())


def test_modules_are_those_of_the_model(network):
    _, model, graph = network
    assert {node.module for node in graph.nodes} <= {name for name, _ in model.named_modules()}
    for node in graph.nodes:
        for name in node.parameters.values():
            assert name.rpartition(".")[0].startswith(node.module)


def test_contents(network):
    name, model, graph = network
    ops = [node.op for node in graph.nodes]
    kinds = [type(module).__name__ for module in model.modules()]
    counts = {
        "resnet18": {"conv2d": 20, "batch_norm": 20, "add": 8, "max_pool2d": 1, "linear": 1, "relu": 17},
        "resnet50": {"conv2d": 53, "batch_norm": 53, "add": 16, "linear": 1, "relu": 49},
        "mobilenet": {"conv2d": kinds.count("Conv2d"), "hardswish": 19, "mul": 9, "hardsigmoid": 9, "add": 6},
        "vit": {"multi_head_attention": 12, "layer_norm": 25, "linear": 25, "cat": 1, "conv2d": 1, "gelu": 12},
        "swin": {"scaled_dot_product_attention": 12, "softmax": 0, "layer_norm": kinds.count("LayerNorm"), "gelu": 12},
        "efficientnet": {"conv2d": kinds.count("Conv2d"), "add": 9, "linear": 1},
        "gpt2": {
            "addmm": 12,
            "scaled_dot_product_attention": 3,
            "embedding": 2,
            "layer_norm": 7,
            "linear": 1,
            "cat": 0,
        },
    }[name]
    assert {op: ops.count(op) for op in counts} == counts
    assert graph.nodes[-1].shape == ((1, 16, 50257) if name == "gpt2" else (1, 1000))


def test_tied_parameters():
    with torch.device("meta"):
        graph = trace(gpt2())
    assert dict(graph.tied_parameters) == {"lm_head.weight": "transformer.wte.weight"}
