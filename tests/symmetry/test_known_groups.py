"""The groups of small networks against groups written out by hand.

An axis is a word: a number is an axis that stays as it is, ``a4`` the first mention of a group of 4, ``a`` a later one;
``b3|a`` is permuted in another way for every index of ``a``; ``(a*b)`` is a product, ``(a+b)`` a concatenation, and
``[a b]`` is ``a`` or ``b``, as another axis of the same tensor tells.
"""

import importlib.util
from pathlib import Path

import pytest

from hypergen.graph import trace
from hypergen.symmetry import Choice, Group, Product

_SPEC = importlib.util.spec_from_file_location("symmetry_networks", Path(__file__).with_name("networks.py"))
networks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(networks)

EXPECTED = {
    networks.mlp: {
        "0.weight": "a4 6",
        "0.bias": "a",
        "2.weight": "3 a",
        "2.bias": "3",
    },
    networks.cnn: {
        "0.weight": "a4 3 3 3",
        "0.bias": "a",
        "1.weight": "a",
        "1.bias": "a",
        "5.weight": "2 (a*3*3)",
        "5.bias": "2",
        "1.running_mean": "a",
        "1.running_var": "a",
    },
    networks.resnet: {
        "stem.weight": "a4 3 3 3",
        "first.weight": "b6 a 1 1",
        "norm.weight": "b",
        "norm.bias": "b",
        "second.weight": "a b 1 1",
        "down.weight": "c8 a 1 1",
        "third.weight": "c a 3 3",
        "head.weight": "2 c",
        "head.bias": "2",
        "norm.running_mean": "b",
        "norm.running_var": "b",
    },
    networks.grouped: {
        "0.weight": "(a3*b2|a) 3 1 1",
        "2.weight": "(a*c4|a) b 3 3",
        "3.weight": "(a*c)",
        "3.bias": "(a*c)",
        "4.weight": "2 (a*c) 1 1",
    },
    networks.depthwise: {
        "0.weight": "a4 3 1 1",
        "1.weight": "(a*b2|a) 1 3 3",
        "2.weight": "(a*b)",
        "2.bias": "(a*b)",
        "3.weight": "2 (a*b) 1 1",
        "2.running_mean": "(a*b)",
        "2.running_var": "(a*b)",
    },
    networks.squeeze_excitation: {
        "stem.weight": "a8 3 3 3",
        "down.weight": "b4 a 1 1",
        "up.weight": "a b 1 1",
        "head.weight": "2 a",
        "head.bias": "2",
    },
    networks.dense_net: {
        "stem.weight": "a4 3 1 1",
        "first.weight": "b2 a 3 3",
        "second.weight": "c2 (a+b) 1 1",
        "norm.weight": "(a+b+c)",
        "norm.bias": "(a+b+c)",
        "head.weight": "2 (a+b+c) 1 1",
        "norm.running_mean": "(a+b+c)",
        "norm.running_var": "(a+b+c)",
    },
    networks.u_net: {
        "wide.weight": "a4 3 3 3",
        "deep.weight": "b6 a 3 3",
        "up.weight": "b c4 2 2",
        "head.weight": "1 (c+a) 1 1",
    },
    networks.vit: {
        "token": "1 1 a12",
        "positions": "1 (1+(2*2)) a",
        "patches.weight": "a 3 4 4",
        "norm.weight": "a",
        "attention.qkv.weight": "((1+1+1)*b3*[c4|b c d4|b]) a",
        "attention.qkv.bias": "((1+1+1)*b*[c c d])",
        "attention.proj.weight": "a (b*d)",
        "head.weight": "2 a",
        "head.bias": "2",
    },
    networks.packed_attention: {
        "stem.weight": "a12 12",
        "attention.in_proj_weight": "((b3*c4|b)+(b*c)+(b*d4|b)) a",
        "attention.in_proj_bias": "((b*c)+(b*c)+(b*d))",
        "attention.out_proj.weight": "e12 (b*d)",
        "attention.out_proj.bias": "e",
        "head.weight": "2 e",
        "head.bias": "2",
    },
    networks.grouped_queries: {
        "stem.weight": "a12 12",
        "q.weight": "(b2*c2|b*(1+1)*2) a",
        "k.weight": "(b*(1+1)*2) a",
        "v.weight": "(b*d4|b) a",
        "out.weight": "e12 (b*c*d)",
        "head.weight": "2 e",
    },
    networks.tied_language_model: {
        "table.weight": "9 a4",
        "up.weight": "b6 a",
        "up.bias": "b",
        "down.weight": "a b",
        "down.bias": "a",
    },
    networks.lstm: {
        "table.weight": "9 a4",
        "lstm.weight_ih_l0": "(4*b3) a",
        "lstm.weight_hh_l0": "(4*b) b",
        "lstm.bias_ih_l0": "(4*b)",
        "lstm.bias_hh_l0": "(4*b)",
        "lstm.weight_ih_l0_reverse": "(4*c3) a",
        "lstm.weight_hh_l0_reverse": "(4*c) c",
        "lstm.bias_ih_l0_reverse": "(4*c)",
        "lstm.bias_hh_l0_reverse": "(4*c)",
        "lstm.weight_ih_l1": "(4*d3) (b+c)",
        "lstm.weight_hh_l1": "(4*d) d",
        "lstm.bias_ih_l1": "(4*d)",
        "lstm.bias_hh_l1": "(4*d)",
        "lstm.weight_ih_l1_reverse": "(4*e3) (b+c)",
        "lstm.weight_hh_l1_reverse": "(4*e) e",
        "lstm.bias_ih_l1_reverse": "(4*e)",
        "lstm.bias_hh_l1_reverse": "(4*e)",
        "head.weight": "2 (d+e)",
        "head.bias": "2",
    },
    networks.gated: {
        "up.weight": "(a4+a) 6",
        "up.bias": "(a+a)",
        "down.weight": "2 a",
        "down.bias": "2",
    },
    networks.heads_as_positions: {
        "stem.weight": "(3*a4) 6",
        "stem.bias": "(3*a)",
        "head.weight": "2 a",
        "head.bias": "2",
    },
    networks.products_of_heads: {
        "stem.weight": "(a3*b4) 6",
        "stem.bias": "(a*b)",
        "head.weight": "2 (a*a)",
        "head.bias": "2",
    },
    networks.products_of_heads_by_einsum: {
        "stem.weight": "(a3*b4) 6",
        "stem.bias": "(a*b)",
        "head.weight": "2 (a*a)",
        "head.bias": "2",
    },
    networks.scattered_features: {
        "features": "10 a4",
        "table.weight": "9 a",
        "head.weight": "2 a",
        "head.bias": "2",
    },
    networks.softmax_over_heads: {
        "stem.weight": "(a3*b4) 6",
        "stem.bias": "(a*b)",
        "head.weight": "2 (a*b)",
        "head.bias": "2",
    },
    networks.running_sum_over_heads: {
        "stem.weight": "(3*a4) 6",
        "stem.bias": "(3*a)",
        "head.weight": "2 (3*a)",
        "head.bias": "2",
    },
    networks.shared_within_heads: {
        "scale": "a4",
        "stem.weight": "(b3*a) 12",
        "stem.bias": "(b*a)",
        "head.weight": "2 a",
        "head.bias": "2",
    },
    networks.shifted_channels: {
        "stem.weight": "6 3 1 1",
        "head.weight": "2 6 1 1",
    },
    networks.two_factorisations: {
        "stem.weight": "(4*6) 6",
        "stem.bias": "(4*6)",
        "head.weight": "2 (4*6)",
        "head.bias": "2",
    },
    networks.written_in_place: {
        "first.weight": "a4 6",
        "first.bias": "a",
        "second.weight": "b4 6",
        "second.bias": "b",
        "head.weight": "2 (a+b)",
        "head.bias": "2",
    },
    networks.written_through_a_view: {
        "bias": "a4",
        "stem.weight": "((1+1)*[a b4]) 6",
        "stem.bias": "((1+1)*[a b])",
        "head.weight": "2 ((1+1)*[a b])",
        "head.bias": "2",
    },
    networks.norm_of_queries: {
        "stem.weight": "a12 12",
        "stem.bias": "a",
        "attention.qkv.weight": "((1+1+1)*b3*[c4 c d4|b]) a",
        "attention.qkv.bias": "((1+1+1)*b*[c c d])",
        "attention.proj.weight": "e12 (b*d)",
        "attention.norm.weight": "c",
        "attention.norm.bias": "c",
        "head.weight": "2 e",
        "head.bias": "2",
    },
    networks.weight_normalised: {
        "0.bias": "a4",
        "0.parametrizations.weight.original0": "a 1",
        "0.parametrizations.weight.original1": "a 6",
        "2.weight": "3 a",
        "2.bias": "3",
    },
    networks.einsum: {
        "q": "12 a3 b4|a",
        "k": "12 a b",
        "v": "12 a c4|a",
        "out": "a c 2",
    },
    networks.two_blocks_in_one: {
        "stem.weight": "(a2+b2+c4) 3 1 1",
        "layers.0.weight": "(d2+e2) c 1 1",
        "layers.1.weight": "f4 ([b e]*(1+1)) 1 1",
        "head.weight": "2 ([([a d]*(1+1)) f]*(1+1)) 1 1",
    },
}


def described(symmetry):
    letters = {}

    def word(structure):
        if isinstance(structure, Group):
            if structure.fixed:
                return str(structure.size)
            if structure in letters:
                return letters[structure]
            letters[structure] = "abcdefghij"[len(letters)]
            above = "".join(letters.get(parent, str(parent.size)) for parent in structure.parents)
            return f"{letters[structure]}{structure.size}" + (f"|{above}" if above else "")
        if isinstance(structure, Product):
            return f"({'*'.join(map(word, structure.factors))})"
        if isinstance(structure, Choice):
            return f"[{' '.join(map(word, structure.options))}]"
        return f"({'+'.join(map(word, structure.segments))})"

    return {name: " ".join(map(word, axes)) for name, axes in symmetry.axes.items()}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_groups(build):
    symmetry = trace(build(), networks.NETWORKS[build]).symmetry()
    assert described(symmetry) == EXPECTED[build]
    assert symmetry.unsupported == ()


def test_an_operation_without_a_rule_is_told_and_keeps_what_it_touches():
    symmetry = trace(networks.without_a_rule(), networks.VECTORS).symmetry()
    assert symmetry.unsupported == ("linalg_inv",)
    assert symmetry.groups == ()
    assert symmetry.frozen["stem.weight"] == ("unsupported operation linalg_inv", "an input of the network")


def test_resnet50():
    models = pytest.importorskip("torchvision.models")
    symmetry = trace(models.resnet50()).symmetry()
    # The stem, the residual stream of four stages, and two groups inside each of 16 bottlenecks.
    assert sorted(group.size for group in symmetry.groups) == sorted(
        [64] + [256, 512, 1024, 2048] + [64] * 6 + [128] * 8 + [256] * 12 + [512] * 6
    )
    assert not any(group.parents for group in symmetry.groups)


def test_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=24, n_head=3, vocab_size=50, n_positions=20)
    symmetry = trace(transformers.GPT2LMHeadModel(config)).symmetry(["logits"])
    stream, *layers = symmetry.groups
    assert (stream.size, stream.name) == (24, "transformer.wte.weight[1]")
    # Per layer: heads, within each head what queries and keys share, and the values; hidden units of the MLP.
    assert [(group.size, len(group.parents)) for group in layers] == [(3, 0), (8, 1), (8, 1), (96, 0)] * 2


def test_outputs_that_do_not_count_leave_what_they_are_made_of_free():
    net = networks.Net(
        lambda self, x: {"logits": self.head(hidden := self.stem(x)), "hidden": hidden},
        stem=networks.nn.Linear(6, 4), head=networks.nn.Linear(4, 2),
    )  # fmt: skip
    graph = trace(net, networks.VECTORS)
    assert graph.symmetry().groups == ()
    assert [group.size for group in graph.symmetry(["logits"]).groups] == [4]


def test_what_only_a_check_reads_stays_free():
    def forward(self, x):
        hidden = self.stem(x)
        assert hidden.sort(-1)[0].numel()
        return self.head(hidden)

    net = networks.Net(forward, stem=networks.nn.Linear(6, 4), head=networks.nn.Linear(4, 2))
    assert [group.size for group in trace(net, networks.VECTORS).symmetry().groups] == [4]
