"""Networks for sequences against graphs by hand; attention is one node however it is written."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from hypergen.graph import trace
from tests.graph.tracing.hand_written import Net, check, parameter

TOKENS = torch.zeros(2, 5, 8)
IDS = torch.zeros(2, 5, dtype=torch.int64)
IN_PROJ = "in_proj_weight={0}in_proj_weight in_proj_bias={0}in_proj_bias"
PROJECTIONS = IN_PROJ + " out_proj_weight={0}out_proj.weight out_proj_bias={0}out_proj.bias"


# Recurrent networks


def test_language_model_with_an_lstm_and_a_tied_head():
    def forward(self, ids):
        hidden, _ = self.rnn(self.table(ids))
        return F.linear(hidden, self.table.weight, self.bias)

    net = Net(forward, table=nn.Embedding(11, 8), rnn=nn.LSTM(8, 8, num_layers=2, batch_first=True), bias=parameter(11))
    weights = [f"{n}_l{i}" for i in range(2) for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    check(net, IDS, f"""
        i = input()
        e = embedding(i) weight=table.weight
        h = lstm(e) {" ".join(f"{name}=rnn.{name}" for name in weights)} @num_layers=2 @bidirectional=False
        y = linear(h) ~weight=table.weight bias=bias
        return y
    """)  # fmt: skip


def test_bidirectional_gru_of_which_the_last_state_is_used():
    def forward(self, x):
        _, state = self.rnn(x)
        return self.head(torch.cat([state[0], state[1]], -1))

    weights = [f"{n}_l0{way}" for way in ("", "_reverse") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    net = Net(forward, rnn=nn.GRU(8, 4, bidirectional=True, batch_first=True), head=nn.Linear(8, 2))
    check(net, TOKENS, f"""
        x = input()
        h = gru(x) {" ".join(f"{name}=rnn.{name}" for name in weights)} @bidirectional=True @batch_first=True
        a = getitem(h)
        b = getitem(h)
        c = cat(a, b) @dim=1
        y = linear(c) [head]
        return y
    """)  # fmt: skip


def test_cell_in_a_loop():
    def forward(self, x):
        state = torch.zeros(2, 4)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state

    own = "weight_ih=cell.weight_ih weight_hh=cell.weight_hh bias_ih=cell.bias_ih bias_hh=cell.bias_hh"
    again = " ".join(f"~{detail}" for detail in own.split())
    check(Net(forward, cell=nn.GRUCell(8, 4)), torch.zeros(2, 3, 8), f"""
        x = input()
        s = unbind(x) @dim=1
        a = gru_cell(s) {own}
        b = gru_cell(s, a) {again}
        c = gru_cell(s, b) {again}
        return c
    """)  # fmt: skip


# nn.MultiheadAttention and its layers


@pytest.mark.parametrize("need_weights", [True, False])
def test_self_attention_of_pytorch(need_weights):
    net = Net(
        lambda self, x: self.attention(x, x, x, need_weights=need_weights)[0],
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    check(net, TOKENS, f"""
        x = input()
        t = transpose(x) @dim0=0 @dim1=1
        a = multi_head_attention(t) {PROJECTIONS.format("attention.")} @num_heads=2 @head_dim=4
        y = transpose(a)
        return y
    """)  # fmt: skip


def test_cross_attention_of_pytorch():
    net = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, bias=False)
    inputs = (torch.zeros(5, 2, 8), torch.zeros(3, 2, 6), torch.zeros(3, 2, 6))
    projections = "q_proj_weight=q_proj_weight k_proj_weight=k_proj_weight v_proj_weight=v_proj_weight"
    projections += " out_proj_weight=out_proj.weight"
    check(net, inputs, """
        q = input()
        k = input()
        v = input()
        p = multi_head_attention(q, k, v) PROJECTIONS @num_heads=2
        return p
    """.replace("PROJECTIONS", projections))  # fmt: skip


def test_transformer_encoder_layer():
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
    check(net, TOKENS, f"""
        x = input()
        n = layer_norm(x) [norm1]
        t = transpose(n)
        a = multi_head_attention(t) {PROJECTIONS.format("self_attn.")}
        u = transpose(a)
        r = add(x, u)
        m = layer_norm(r) [norm2]
        b = linear(m) [linear1]
        g = gelu(b)
        c = linear(g) [linear2]
        y = add(r, c)
        return y
    """)  # fmt: skip


# Attention of one's own: two heads of four features each


class Attention(nn.Module):
    """Projections to queries, keys and values, one of the ways to attend, and a projection of the result."""

    def __init__(self, attend, **parts):
        super().__init__()
        self.qkv, self.out, self.attend = nn.Linear(8, 24), nn.Linear(8, 8), attend
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return self.out(self.attend(self, q, k, v).transpose(1, 2).reshape(2, 5, 8))


def attention_graph(details=""):
    return f"""
        x = input()
        p = linear(x) [qkv]
        r = reshape(p)
        m = permute(r) @dims=(2,0,3,1,4)
        u = unbind(m)
        a = scaled_dot_product_attention(u) {details} @num_heads=2 @head_dim=4
        t = transpose(a) @dim0=1 @dim1=2
        f = reshape(t)
        y = linear(f) [out]
        return y
    """


def fused(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def flexible(self, q, k, v):
    causal = create_block_mask(lambda b, h, i, j: i >= j, None, None, 5, 5, device=q.device)
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + (i - j), block_mask=causal)


def scaled_scores(self, q, k, v):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(4)
    return torch.matmul(F.dropout(F.softmax(scores, dim=-1), 0.1, self.training), v)


def scaled_queries(self, q, k, v):
    q = q * 4**-0.5
    return (q @ k.mT).softmax(dim=-1) @ v


def scaled_keys_in_place(self, q, k, v):
    return F.softmax(q @ (k * 0.5).swapaxes(2, 3), -1, dtype=torch.float32).to(q.dtype) @ v


def causal_mask_of_constants(self, q, k, v):
    scores = (q @ k.transpose(2, 3)) * 0.5
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def mask_by_where_and_in_place(self, q, k, v):
    scores = q @ k.transpose(2, 3)
    scores *= 0.5
    scores = torch.where(torch.ones(5, 5, dtype=torch.bool).tril(), scores, torch.finfo(q.dtype).min)
    return torch.max(scores, torch.tensor(-1e9)).softmax(-1) @ v


def soft_capped(self, q, k, v):
    return (torch.tanh(q @ k.mT / 50) * 50).softmax(-1) @ v


def stable_softmax(self, q, k, v):
    scores = q @ k.mT
    return (scores - scores.amax(dim=-1, keepdim=True)).softmax(-1) @ v


def equations(self, q, k, v):
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(0.5).softmax(dim=-1)
    return torch.einsum("b h i j, b h j d -> b h i d", weights, v)


WAYS = [
    fused, flexible, scaled_scores, scaled_queries, scaled_keys_in_place, causal_mask_of_constants,
    mask_by_where_and_in_place, soft_capped, stable_softmax, equations,
]  # fmt: skip


@pytest.mark.parametrize("attend", WAYS)
def test_attention_however_it_is_written(attend):
    check(Attention(attend), TOKENS, attention_graph())


def columns_fused(q, k, v):
    return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT


def columns_written_out(q, k, v):
    return v @ (q.mT @ k).softmax(-1).mT


@pytest.mark.parametrize("attend", [columns_fused, columns_written_out])
def test_tokens_in_columns(attend):
    net = Net(lambda self, x: attend(*self.qkv(x).chunk(3, 1)), qkv=nn.Conv1d(6, 12, 1))
    graph = check(net, torch.zeros(2, 6, 5), """
        x = input()
        c = conv1d(x) [qkv]
        p = chunk(c) @chunks=3 @dim=1
        q = transpose(p) @dim0=1 @dim1=2
        k = transpose(p) @dim0=1 @dim1=2
        v = transpose(p) @dim0=1 @dim1=2
        a = scaled_dot_product_attention(q, k, v) @num_heads=1 @head_dim=4
        y = transpose(a) @dim0=1 @dim1=2
        return y
    """)  # fmt: skip
    assert [node.shape for node in graph.nodes[3:]] == [(2, 5, 4)] * 4 + [(2, 4, 5)]


def biased_scores(self, q, k, v):
    return ((q * 0.5) @ k.mT + self.bias[:, None]).softmax(-1) @ v


def biased_by_baddbmm(self, q, k, v):
    scores = torch.baddbmm(self.bias.expand(4, 5, 5), q.reshape(4, 5, 4), k.reshape(4, 5, 4).mT, alpha=0.5)
    return torch.bmm(scores.softmax(-1), v.reshape(4, 5, 4)).view(2, 2, 5, 4)


def biased_windows(self, q, k, v):
    scores = q @ k.mT + self.bias[None]
    scores = scores.view(1, 2, 2, 5, 5) + torch.zeros(2, 1, 5, 5)
    return scores.view(-1, 2, 5, 5).softmax(-1) @ v


def biased_fused(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None])


def biased_and_masked_fused(self, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, self.bias.unsqueeze(0) + torch.zeros(2, 1, 5, 5))


@pytest.mark.parametrize("attend", [biased_scores, biased_windows, biased_fused, biased_and_masked_fused])
def test_a_bias_of_the_scores_is_their_mask(attend):
    check(Attention(attend, bias=parameter(2, 5, 5)), TOKENS, attention_graph("attn_mask=bias"))


def test_batched_products_with_a_bias():
    check(Attention(biased_by_baddbmm, bias=parameter(5, 5)), TOKENS, """
        x = input()
        p = linear(x) [qkv]
        r = reshape(p)
        m = permute(r)
        u = unbind(m)
        q = reshape(u)
        k = reshape(u)
        v = reshape(u)
        a = scaled_dot_product_attention(q, k, v) attn_mask=bias @num_heads=2 @head_dim=4
        b = reshape(a)
        t = transpose(b)
        f = reshape(t)
        y = linear(f) [out]
        return y
    """)  # fmt: skip


def test_a_learned_temperature_belongs_to_the_attention():
    def attend(self, q, k, v):
        return (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature).softmax(-1) @ v

    check(Attention(attend, temperature=parameter(2, 1, 1)), TOKENS, """
        x = input()
        p = linear(x) [qkv]
        r = reshape(p)
        m = permute(r)
        u = unbind(m)
        q = normalize(u) @dim=3
        k = normalize(u) @dim=3
        a = scaled_dot_product_attention(q, k, u) temperature=temperature @num_heads=2 @head_dim=4
        t = transpose(a)
        f = reshape(t)
        y = linear(f) [out]
        return y
    """)  # fmt: skip


def test_weights_that_are_returned_are_a_second_output():
    def forward(self, q, k):
        weights = (q @ k.mT).softmax(-1)
        return weights @ k, weights.mean(1)

    check(Net(forward), (TOKENS, TOKENS), """
        q = input()
        k = input()
        a = scaled_dot_product_attention(q, k) @head_dim=8
        m = mean(a)
        return a, m
    """)  # fmt: skip


NOT_ATTENTION = {
    "scores that are read elsewhere": lambda q, k, v: ((s := q @ k.mT).softmax(-1) @ v, s),
    "a softmax over the queries": lambda q, k, v: (q @ k.mT).softmax(-2) @ v,
    "heads that are mixed between": lambda q, k, v: (q @ k.mT).cumsum(1).softmax(-1) @ v,
    "a sum over the queries": lambda q, k, v: (q @ k.mT).softmax(-1).mT @ v,
    "weights that no values follow": lambda q, k, v: (q @ k.mT).softmax(-1) * 2,
    "a softmax of no scores": lambda q, k, v: torch.softmax(q, -1) @ v.mT,
}


@pytest.mark.parametrize("name", NOT_ATTENTION)
def test_what_is_no_attention(name):
    net = Net(lambda self, *inputs: NOT_ATTENTION[name](*inputs))
    graph = trace(net, (torch.zeros(2, 2, 5, 4),) * 3)
    assert [node.op for node in graph.nodes].count("softmax") == 1
    assert "scaled_dot_product_attention" not in [node.op for node in graph.nodes]


def test_grouped_queries_with_rotary_positions():
    def forward(self, x):
        q, k, v = self.qkv(x).split([8, 4, 4], dim=-1)
        q, k, v = (t.view(2, 5, -1, 4).transpose(1, 2) for t in (q, k, v))
        angles = torch.arange(5)[:, None] * torch.ones(4)
        q = q * angles.cos() + torch.cat([-q[..., 2:], q[..., :2]], -1) * angles.sin()
        k, v = (t[:, :, None].expand(2, 1, 2, 5, 4).reshape(2, 2, 5, 4) for t in (k, v))
        return torch.softmax(q @ k.transpose(2, 3) * 0.5, -1) @ v

    check(Net(forward, qkv=nn.Linear(8, 16, bias=False)), TOKENS, """
        x = input()
        p = linear(x) weight=qkv.weight
        s = split(p) @split_size=(8,4,4) @dim=2
        r1 = reshape(s)
        q = transpose(r1) @dim0=1 @dim1=2
        r2 = reshape(s)
        k = transpose(r2)
        r3 = reshape(s)
        v = transpose(r3)
        c = mul(q)
        h = getitem(q)
        n = neg(h)
        l = getitem(q)
        j = cat(n, l) @dim=3
        d = mul(j)
        z = add(c, d)
        k1 = getitem(k)
        k2 = expand(k1)
        k3 = reshape(k2)
        v1 = getitem(v)
        v2 = expand(v1)
        v3 = reshape(v2)
        a = scaled_dot_product_attention(z, k3, v3) @num_heads=2 @head_dim=4
        return a
    """)  # fmt: skip


def test_encoder_and_decoder_share_a_table_of_positions():
    def forward(self, source, target):
        memory = self.norm(source + self.positions[:5])
        query = self.norm(target + self.positions[:3])
        return F.scaled_dot_product_attention(query, memory, memory, is_causal=True)

    net = Net(forward, positions=parameter(9, 8), norm=nn.LayerNorm(8))
    graph = check(net, (TOKENS, torch.zeros(2, 3, 8)), """
        s = input()
        t = input()
        a = add(s) positions=positions
        m = layer_norm(a) [norm]
        b = add(t) ~positions=positions
        q = layer_norm(b) ~weight=norm.weight ~bias=norm.bias
        y = scaled_dot_product_attention(q, m) @num_heads=1 @head_dim=8 @is_causal=True
        return y
    """)  # fmt: skip
    assert graph.nodes[-1].shape == (2, 3, 8)
