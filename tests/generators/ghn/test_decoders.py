import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hypergen.generators.ghn.conv_decoder import ConvDecoder
from hypergen.generators.ghn.features import batch_graphs, graph_features
from hypergen.generators.ghn.layout import KERNEL_GRID
from hypergen.generators.ghn.low_rank_decoder import LowRankDecoder
from hypergen.generators.ghn.slots import MATRIX_SITES, VECTOR_SITES
from hypergen.graph import trace

HIDDEN = 6
MIDDLE = KERNEL_GRID // 2


def batch_of(*modules_and_shapes):
    return batch_graphs([graph_features(trace(module, torch.zeros(shape))) for module, shape in modules_and_shapes])


def convolutions(channels, *kernels):
    """Hidden convolutions over ``channels``, between a first and a last layer."""
    hidden = [nn.Conv2d(channels, channels, kernel, bias=False) for kernel in kernels]
    return nn.Sequential(nn.Conv2d(1, channels, 1, bias=False), *hidden, nn.Conv2d(channels, 2, 1)), (1, 1, 40, 40)


def linears(*widths):
    layers = [nn.Linear(i, o) for i, o in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers), (1, widths[0])


def same_state(batch, seed=0):
    """One state for all slots: what differs then comes from shapes alone."""
    state = torch.randn(1, HIDDEN, generator=torch.Generator().manual_seed(seed))
    return state.expand(len(batch.slot_sites), HIDDEN)


def states_of(batch, seed=0):
    return torch.randn(len(batch.slot_sites), HIDDEN, generator=torch.Generator().manual_seed(seed))


def decode(decoder, batch, states=None, scale=1.0):
    states = same_state(batch) if states is None else states
    return decoder(states, batch, torch.full((len(batch.matrices),), scale))


def low_rank(seed=0, **arguments):
    torch.manual_seed(seed)
    return LowRankDecoder(HIDDEN, **{"rank": 12, "steered_rank": 5, "width": 8, "shared": True, **arguments})


def conv(seed=0, side=4):
    torch.manual_seed(seed)
    return ConvDecoder(HIDDEN, side)


@pytest.fixture(params=[low_rank, conv])
def decoder(request):
    return request.param()


@torch.no_grad()
def test_matrices_and_vectors_have_the_sizes_of_their_slots(decoder):
    module = nn.Sequential(nn.Conv2d(3, 20, (2, 7)), nn.BatchNorm2d(20), nn.Flatten(), nn.Linear(20 * 7 * 2, 5))
    batch = batch_of((module, (1, 3, 8, 8)), linears(3, 4, 2))
    matrices, vectors = decode(decoder, batch)
    assert [tuple(m.shape) for m in matrices] == [size for layout in batch.layouts for size in layout.sizes]
    assert [tuple(m.shape) for m in matrices] == [(20, 42), (5, 280), (4, 3), (2, 4)]
    assert vectors.shape == (20 + 2 * 20 + 5 + 4 + 2,)


@torch.no_grad()
def test_scale_multiplies_matrices_alone(decoder):
    batch = batch_of(linears(6, 9, 9, 3))
    (one, vectors), (three, same) = decode(decoder, batch), decode(decoder, batch, scale=3.0)
    for m, n in zip(one, three, strict=True):
        torch.testing.assert_close(3 * m, n)
    assert torch.equal(vectors, same)
    _, first, *_ = decoder(same_state(batch), batch, torch.tensor([1.0, 5.0, 1.0]))[0]
    torch.testing.assert_close(first, 5 * one[1])


@torch.no_grad()
def test_channels_mean_the_same_in_every_width(decoder):
    batch = batch_of(convolutions(6, 3, 1), convolutions(4, 3, 1))
    matrices, _ = decode(decoder, batch)
    for wide, narrow in zip(matrices[:3], matrices[4:7], strict=True):
        rows, columns = narrow.shape
        torch.testing.assert_close(wide[:rows, :columns], narrow)


@torch.no_grad()
def test_states_decide(decoder):
    batch = batch_of(linears(6, 6, 6, 6))
    alike, _ = decode(decoder, batch)
    torch.testing.assert_close(alike[0], alike[1])
    different, _ = decode(decoder, batch, states_of(batch))
    assert (different[0] - different[1]).abs().max() > 1e-4


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (1, 3), (3, 2)])
@torch.no_grad()
def test_smaller_kernels_are_the_centre_of_larger_ones(decoder, kernel):
    batch = batch_of(convolutions(4, 5, kernel))
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if (height, width) == (1, 1):
        batch = batch_of((nn.Sequential(nn.Conv2d(1, 4, 5), nn.Conv2d(4, 4, 5)), (1, 1, 9, 9)),
                         (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 5)), (1, 1, 9, 9)))  # fmt: skip
        large, small = (decode(decoder, batch)[0][i] for i in (0, 2))
    else:
        large, small = decode(decoder, batch)[0][1:3]
    large, small = large.view(4, -1, 5, 5), small.view(4, -1, height, width)
    # Even kernels have their centre before the middle, as PyTorch pads them.
    top, left = MIDDLE - (height - 1) // 2, MIDDLE - (width - 1) // 2
    torch.testing.assert_close(large[:, :, top : top + height, left : left + width], small)


@pytest.mark.parametrize("kernel", [6, 7, (11, 3), 16])
@torch.no_grad()
def test_larger_kernels_are_resized(decoder, kernel):
    batch = batch_of(convolutions(4, 5, kernel))
    large, other = decode(decoder, batch)[0][1:3]
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    expected = F.interpolate(
        large.view(4, 4, 5, 5), (height, width), mode="bilinear",
        align_corners=isinstance(decoder, LowRankDecoder) and height >= 3 * 5,
    )  # fmt: skip
    torch.testing.assert_close(other.view(4, 4, height, width), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_low_rank_decoder_is_its_formula():
    decoder = low_rank()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter)
    batch = batch_of(linears(6, 7, 7, 3))
    states, scale = states_of(batch), torch.tensor([0.5, 2.0, 3.0])
    matrices, vectors = decoder(states, batch, scale)
    k = decoder.steered_rank
    # How far the optimiser steers is a constant that is being tuned; it is read off, not tested.
    strength = decoder.modulation
    for matrix, s, h, (site, _) in zip(matrices, scale, states[batch.matrices], batch.layouts[0].sites, strict=True):
        core = torch.diag(1 + strength * decoder.diagonal(h))
        core[:k, :k] += strength * decoder.steer(h).view(k, k)
        u, v = decoder.row_tables[site][: len(matrix)], decoder.column_tables[site][: matrix.shape[1]]
        torch.testing.assert_close(matrix, s * (u @ core @ v.t()) / math.sqrt(decoder.rank), rtol=1e-4, atol=1e-4)
    tables = decoder.vector_table.view(len(VECTOR_SITES), -1, decoder.rank)
    biases = [tables[VECTOR_SITES.index(site)][:count] for site, count in (("bias", 7), ("bias", 7), ("last_bias", 3))]
    heads = strength * decoder.vector(states[list(batch.layouts[0].vectors)]) / math.sqrt(decoder.rank)
    expected = torch.cat([rows @ head for rows, head in zip(biases, heads, strict=True)])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_low_rank_decoder_starts_at_unit_variance_and_full_rank():
    batch = batch_of(linears(60, 60, 60, 60))
    decoder = low_rank(rank=64, steered_rank=16, width=64)
    matrices, _ = decode(decoder, batch)
    assert matrices[0].std() == pytest.approx(1, rel=0.2)
    assert torch.linalg.matrix_rank(matrices[0]) > 50
    # Networks start as one function: the state has next to no say.
    other, _ = decode(decoder, batch, same_state(batch, seed=1))
    assert (matrices[0] - other[0]).std() < 0.2


@torch.no_grad()
def test_steered_rank_is_no_more_than_the_rank():
    assert low_rank(rank=4, steered_rank=32).steered_rank == 4


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_rows_beyond_the_tables_repeat_under_other_signs(shared):
    decoder = low_rank(rank=32, steered_rank=8, shared=shared)
    batch = batch_of(linears(600, 600, 600))
    matrix = decode(decoder, batch)[0][0]
    period = len(decoder.row_tables[batch.layouts[0].sites[0][0]])
    assert period < 100
    for m in (matrix, matrix.t()):
        assert len(m.unique(dim=0)) == len(m)
        unit = F.normalize(m, dim=1)
        likeness = (unit[:period] * unit[period : 2 * period]).sum(1)
        assert likeness.abs().mean() < 0.5 and likeness.max() < 0.99
    # The first rows know nothing of the repetition.
    short = decode(decoder, batch_of(linears(600, period, 600)))[0]
    assert matrix.isfinite().all() and matrix.std() == pytest.approx(short[0].std().item(), rel=0.5)


@torch.no_grad()
def test_repetitions_do_not_depend_on_the_rest_of_the_batch():
    decoder = low_rank()
    alone = decode(decoder, batch_of(linears(40, 40, 40)))[0]
    beside = decode(decoder, batch_of(linears(40, 40, 40), linears(900, 900, 900)))[0]
    for one, other in zip(alone, beside[: len(alone)], strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_conv_decoder_repeats_its_block():
    decoder = conv(side=4)
    matrix = decode(decoder, batch_of(convolutions(10, 3)))[0][1].view(10, 10, 3, 3)
    index = torch.arange(10) % 4
    assert torch.equal(matrix, matrix[:4, :4][index][:, index])
    assert (
        len(matrix[:4].flatten(1).unique(dim=0)) == 4
        and len(matrix[:, :4].transpose(0, 1).flatten(1).unique(dim=0)) == 4
    )


@torch.no_grad()
def test_gradients_reach_what_is_used_alone():
    decoder = low_rank()
    batch = batch_of(linears(6, 6, 3))
    with torch.enable_grad():
        matrices, vectors = decode(decoder, batch, states_of(batch))
        (sum(m.square().sum() for m in matrices) + vectors.square().sum()).backward()
    used = {site for site, _ in batch.layouts[0].sites}
    for site in MATRIX_SITES:
        for tables in (decoder.row_tables, decoder.column_tables):
            gradient = tables[site].grad
            assert (gradient is not None and gradient.abs().sum() > 0) == (site in used), site
