import pytest
import torch
from typer.testing import CliRunner

from hypergen.adapters import Adapter, LowRank, merge_adapters, read_adapter, write_adapter
from hypergen.cli.main import app
from hypergen.errors import ParameterError, UnknownNameError
from hypergen.symmetry.merge.methods import merge_tensors
from tests.adapters import kinds

peft = pytest.importorskip("peft")


def mixed(ranks=(2, 3, 8, 4, 16)) -> list[Adapter]:
    random = torch.Generator().manual_seed(0)
    return [
        Adapter(
            {
                name: LowRank(
                    torch.randn(40, rank, generator=random), torch.randn(rank, 30, generator=random), 3 / rank**0.5
                )
                for name in ("q", "v")[: 1 + number % 2]
            },
            name=f"a{number}",
        )
        for number, rank in enumerate(ranks)
    ]


def total(adapters, weights, module):
    return sum(w * a.modules[module].update() for a, w in zip(adapters, weights, strict=True) if module in a.modules)


def test_five_adapters_of_mixed_rank_merge_as_well_as_can_be():
    adapters, weights = mixed(), [1.0, 0.5, -0.3, 2.0, 0.7]
    merged = merge_adapters(adapters, weights, rank=6)
    exact = merge_adapters(adapters, weights, method="cat")
    for module in ("q", "v"):
        expected = total(adapters, weights, module).double()
        torch.testing.assert_close(exact.modules[module].update().double(), expected, atol=1e-4, rtol=1e-4)
        best = torch.linalg.svdvals(expected)[6:].norm()
        assert float((merged.modules[module].update() - expected).norm() / best) <= 1.001
        assert merged.modules[module].rank == 6


@pytest.mark.parametrize("kind", ["plain", "rslora", "patterns", "biases", "conv", "embedding", "gpt2", "negative"])
@pytest.mark.parametrize("method", ["svd", "cat", "ties", "dare"])
def test_merging_an_adapter_with_nothing_changes_nothing(kind, method, tmp_path):
    model = kinds.adapted(kind)
    model.save_pretrained(tmp_path / "one")
    adapter = read_adapter(tmp_path / "one")
    nothing = adapter.map(lambda update: LowRank(update.up * 0, update.down, update.scale, update.embedding))
    nothing = Adapter(nothing.modules, {}, nothing.config, "nothing")
    merged = merge_adapters([adapter, nothing], method=method, density=1.0)
    for name, update in adapter.modules.items():
        torch.testing.assert_close(merged.modules[name].update(), update.update(), atol=1e-5, rtol=1e-4)
    write_adapter(merged, tmp_path / "merged")
    expected = kinds.outputs(model)
    torch.testing.assert_close(kinds.outputs(kinds.loaded(kind, tmp_path / "merged")), expected, atol=2e-5, rtol=1e-4)


def adapter_of(seed):
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator)
    return Adapter({"layer": LowRank(up, down, 1.0, False)}, {}, {}, f"adapter {seed}")


@pytest.mark.parametrize("method, of_networks", [("ties", "ties"), ("dare", "dare_linear")])
def test_whole_matrices_are_merged_as_those_of_networks(method, of_networks):
    adapters = [adapter_of(seed) for seed in range(3)]
    updates = [adapter.modules["layer"].update() for adapter in adapters]
    merged = merge_adapters(adapters, method=method, weights=[1.0, 2.0, 1.0], density=0.5, rank=5, seed=3)
    weighted = [update * weight for update, weight in zip(updates, [1.0, 2.0, 1.0], strict=True)]
    expected = merge_tensors(
        of_networks, weighted, torch.zeros(6, 5), density=0.5, generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(merged.modules["layer"].update(), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, sum(weighted), atol=0.1)


def test_what_does_not_add_up_is_refused(tmp_path):
    for kind in ("plain", "dora", "saved", "pissa", "gpt2"):
        kinds.adapted(kind).save_pretrained(tmp_path / kind)
    read = {kind: read_adapter(tmp_path / kind) for kind in ("plain", "dora", "saved", "pissa", "gpt2")}
    for kind, message in (("dora", "DoRA"), ("saved", "as a whole"), ("pissa", "initialised with pissa")):
        with pytest.raises(ParameterError, match=message):
            merge_adapters([read["plain"], read[kind]])
    one, other = (Adapter(read["plain"].modules, {}, {"base_model_name_or_path": base}) for base in "ab")
    with pytest.raises(ParameterError, match="different bases do not add up: a, b"):
        merge_adapters([one, other])
    wrong = Adapter({"q_proj": LowRank(torch.zeros(3, 1), torch.zeros(1, 3))}, name="wrong")
    with pytest.raises(ParameterError, match=r"'q_proj' is \[3, 3\] in 'wrong' and \[10, 8\] in 'plain'"):
        merge_adapters([read["plain"], wrong])
    with pytest.raises(UnknownNameError, match="ties"):
        merge_adapters([one, one], method="tie")
    with pytest.raises(ParameterError, match="leave rank out"):
        merge_adapters([one, one], method="cat", rank=2)
    with pytest.raises(ParameterError, match="two adapters or more"):
        merge_adapters([one])


def test_the_command_writes_an_adapter_that_loads(tmp_path):
    for name, kind in (("a", "plain"), ("b", "rslora"), ("c", "patterns")):
        kinds.adapted(kind, seed=ord(name)).save_pretrained(tmp_path / "given" / name)
    arguments = ["adapters", "merge", str(tmp_path / "given"), "--out", str(tmp_path / "out"), "--rank", "6"]
    result = CliRunner().invoke(app, [*arguments, "--weight", "1", "--weight", "0.5", "--weight", "2"])
    assert result.exit_code == 0, result.output
    assert "3 adapters of rank 4, 4, 4 merged into one of rank 6" in result.output
    kinds.loaded("plain", tmp_path / "out")
