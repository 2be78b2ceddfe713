import csv

import pytest
import torch
from typer.testing import CliRunner

from hypergen.adapters import Adapter, LowRank, inspect_adapter, inspect_adapters, nearest, read_adapter, write_adapter
from hypergen.adapters.inspection import read_statistics, similarities
from hypergen.adapters.statistics import kind_of, kurtosis, layer_of, rank_used, sketch, update_statistics
from hypergen.cli.main import app
from hypergen.errors import CheckpointError, HypergenError
from tests.adapters import kinds


def adapter_of(seed: int, rank: int = 4, size: int = 200, name: str = "", modules: int = 6) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    updates = {
        f"layers.{number // 2}.{kind}": LowRank(
            torch.randn(size, rank, generator=random), torch.randn(rank, size, generator=random), 0.5
        )
        for number, kind in zip(range(modules), ("q_proj", "v_proj") * modules, strict=False)
    }
    return Adapter(updates, {}, {"base_model_name_or_path": "base"}, name or f"a{seed}")


def test_statistics_are_those_of_the_update():
    update = adapter_of(0).modules["layers.0.q_proj"]
    whole = update.update().double()
    sigma = torch.linalg.svdvals(whole)[:4]
    numbers = update_statistics(update)
    share = sigma**2 / (sigma**2).sum()
    assert numbers["sigma_1"] == pytest.approx(float(sigma[0]), rel=1e-5)
    assert numbers["frobenius"] == pytest.approx(float(whole.norm()), rel=1e-5)
    assert numbers["concentration"] == pytest.approx(float(share[0]), rel=1e-5)
    assert numbers["entropy"] == pytest.approx(float(-(share * share.log()).sum()), rel=1e-5)
    centred = whole.flatten() - whole.mean()
    assert kurtosis(update) == pytest.approx(float(centred.pow(4).mean() / centred.pow(2).mean() ** 2), rel=1e-4)
    assert rank_used(torch.tensor([3.0, 1.0, 1.0, 0.0])) == 3 and rank_used(torch.tensor([3.0, 0.1])) == 1
    assert rank_used(torch.zeros(3)) == 0


def test_sketches_keep_inner_products_in_any_gauge():
    one, other = adapter_of(0), adapter_of(1)
    mixed = Adapter(
        {
            name: LowRank(
                torch.cat([update.up, other.modules[name].up], 1),
                torch.cat([update.down, other.modules[name].down]),
                0.5,
            )
            for name, update in one.modules.items()
        }
    )
    exact = sum(update.inner(mixed.modules[name]) for name, update in one.modules.items())
    norms = [sum(u.inner(u) for u in a.modules.values()) ** 0.5 for a in (one, mixed)]
    a, b = sketch(one), sketch(mixed)
    assert float(a @ b / a.norm() / b.norm()) == pytest.approx(exact / norms[0] / norms[1], abs=0.05)
    torch.testing.assert_close(sketch(one.canonical()), a, atol=1e-2, rtol=1e-3)


def test_neighbours_are_found_and_groups_are_not_mixed(tmp_path):
    near = adapter_of(0).map(lambda update: LowRank(update.up + 0.1 * torch.randn_like(update.up), update.down, 0.5))
    every = [adapter_of(0), adapter_of(1), Adapter(near.modules, {}, near.config, "near")]
    inspected = [inspect_adapter(each) for each in every]
    assert [name for name, _ in nearest(inspected)][::2] == ["near", "a0"]
    with pytest.raises(HypergenError, match="different modules or shapes"):
        similarities([*inspected, inspect_adapter(adapter_of(2, modules=4))])
    assert nearest(inspected[:1])[0][0] == ""


@pytest.mark.parametrize(
    "name, layer, kind",
    [
        ("model.layers.12.self_attn.q_proj", 12, "q_proj"),
        ("unet.mid.attn.to_out.0", 0, "to_out"),
        ("head", None, "head"),
        ("lora_unet_down_blocks_1_attn_to_q", 1, "lora_unet_down_blocks_1_attn_to_q"),
    ],
)
def test_layers_and_kinds_of_modules(name, layer, kind):
    assert layer_of(name) == layer and kind_of(name) == kind


def test_the_command_writes_tables_and_pictures(tmp_path):
    for kind in ("plain", "dora", "pissa", "gpt2"):
        pytest.importorskip("peft")
        kinds.adapted(kind).save_pretrained(tmp_path / "given" / kind)
    zero = read_adapter(tmp_path / "given" / "plain").map(lambda u: LowRank(u.up * 0, u.down, u.scale))
    write_adapter(zero, tmp_path / "given" / "zero")
    kinds.base("gpt2").save_pretrained(tmp_path / "base")
    arguments = ["adapters", "inspect", str(tmp_path / "given"), "--base", str(tmp_path / "base")]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")], env={"COLUMNS": "220"})
    assert result.exit_code == 0, result.output
    assert "fits, 4 modules" in result.output and "does not fit: none of 2" in result.output
    for note in ("DoRA", "initialised with pissa", "changes nothing"):
        assert note in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapters.csv", "layers.csv", "energy_0.png", "similarity_0.png", "map_0.png", "energy_1.png"} <= names
    rows = list(csv.DictReader(open(tmp_path / "out" / "adapters.csv")))
    assert len(rows) == 5 and float(next(row for row in rows if row["name"] == "zero")["norm"]) == 0
    found, columns, values = read_statistics(tmp_path / "out" / "adapters.csv")
    assert "q_proj.sigma_1" in columns and values.shape == (5, len(columns)) and "gpt2" in found
    with pytest.raises(CheckpointError, match="is no adapters.csv"):
        read_statistics(tmp_path / "out" / "layers.csv")
    assert len(inspect_adapters([tmp_path / "given"])) == 5
