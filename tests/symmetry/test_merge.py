import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from hypergen.cli.main import app
from hypergen.errors import CheckpointError, ParameterError, UnknownNameError
from hypergen.symmetry import (
    fisher_importance,
    input_products,
    merge_files,
    merge_regression,
    merge_tensors,
    merge_weighted,
)
from hypergen.symmetry.merge.methods import thinned

BASE = torch.tensor([1.0, -1.0, 0.5, 2.0])
A = BASE + torch.tensor([0.4, -0.2, 0.1, -0.3])
B = BASE + torch.tensor([-0.1, -0.6, 0.3, 0.2])


def close(one, other):
    torch.testing.assert_close(one, torch.tensor(other), rtol=0, atol=1e-6)


def test_formulas_worked_out_by_hand():
    close(merge_tensors("linear", [A, B], weight=[3, 1]), ((3 * A + B) / 4).tolist())
    close(merge_tensors("task_arithmetic", [A, B], BASE, weight=[1, 0.5]), [1.35, -1.5, 0.75, 1.8])
    # TIES with density ½: a keeps .4 and -.3, b keeps -.6 and .3; where both are left, the sign of the sum.
    close(merge_tensors("ties", [A, B], BASE, density=0.5), [1.4, -1.6, 0.8, 1.7])
    # Nothing trimmed: .4 against -.1 elects +, -.3 against .2 elects -.
    close(merge_tensors("ties", [A, B], BASE), [1.4, -1.4, 0.7, 1.7])
    angle = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    close(merge_tensors("slerp", list(angle), t=1 / 3), [0.8660254, 0.5])
    close(merge_tensors("slerp", [A, 2 * A], t=0.25), (1.25 * A).tolist())


def test_weights_elect_signs():
    # .2·.4 - .1 < 0: b is taken alone, times its weight.
    close(merge_tensors("ties", [A, B], BASE, weight=[0.2, 1], normalize=False), [0.9, -1.64, 0.82, 2.2])


def test_random_thinning_keeps_the_sum_of_magnitudes():
    delta = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    for thinning in ("random", "rank"):
        kept = thinned(delta, 0.3, thinning, rescale=True, generator=torch.Generator().manual_seed(1))
        assert float(kept.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
        assert float((kept != 0).float().mean()) == pytest.approx(0.3, abs=0.04)
        ratios = (kept / delta)[kept != 0]
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    # Larger values are kept more often, from density - epsilon to density + epsilon.
    large = delta.abs() > delta.abs().median()
    share = [(kept != 0)[mask].float().mean() for mask in (large, ~large)]
    assert share[0] - share[1] == pytest.approx(0.15, abs=0.06)


def test_merged_random_methods_depend_on_the_seed_alone():
    delta = [BASE.repeat(50) + 0.1 * torch.randn(200, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    for method in ("dare_linear", "dare_ties", "della", "della_linear"):
        made = [
            merge_tensors(method, delta, BASE.repeat(50), density=0.5, generator=torch.Generator().manual_seed(seed))
            for seed in (0, 0, 1)
        ]
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_fisher_and_regression_means():
    torch.manual_seed(0)
    a, b = ({name: value.detach() for name, value in nn.Linear(4, 3).double().named_parameters()} for _ in range(2))
    equal = [{name: torch.ones_like(value) for name, value in a.items()}] * 2
    torch.testing.assert_close(merge_weighted([a, b], equal)["weight"], (a["weight"] + b["weight"]) / 2)
    x, y = torch.randn(50, 4).double(), torch.randn(50, 4).double() * torch.tensor([5, 1, 0.1, 1])
    model = nn.Linear(4, 3).double()
    products = [input_products(model, [value]) for value in (x, y)]
    merged = merge_regression([a, b], products, off_diagonal=1.0)["weight"]
    # The least-squares solution for the outputs of both.
    inputs, outputs = torch.cat([x, y]), torch.cat([x @ a["weight"].T, y @ b["weight"].T])
    torch.testing.assert_close(merged, torch.linalg.lstsq(inputs, outputs).solution.T)
    importance = fisher_importance(model, [(x[:5], torch.tensor([0, 1, 2, 0, 1]))])
    assert importance["weight"].shape == (3, 4) and bool((importance["weight"] > 0).all())


@pytest.fixture
def checkpoints(tmp_path):
    for name, seed in (("base", 0), ("a", 1), ("b", 2)):
        generator = torch.Generator().manual_seed(seed)
        names = [f"blocks.{k}.{part}.weight" for k in range(3) for part in ("attn", "mlp")]
        tensors = {name: torch.randn(4, 6, generator=generator) for name in names}
        save_file({**tensors, "steps": torch.tensor(seed)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_files_as_configured(checkpoints):
    configuration = {
        "merge_method": "task_arithmetic",
        "base_model": "base.safetensors",
        "models": [
            {"model": "a.safetensors", "parameters": {"weight": [0.0, 1.0]}},
            {"model": "b.safetensors", "parameters": {"weight": [{"filter": "mlp", "value": 0.5}, {"value": 0.0}]}},
        ],
        "dtype": "bfloat16",
    }
    (checkpoints / "config.yaml").write_text(yaml.safe_dump(configuration))
    out = checkpoints / "merged.safetensors"
    result = CliRunner().invoke(app, ["merge", str(checkpoints / "config.yaml"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    base, a, b = (load_file(checkpoints / f"{name}.safetensors") for name in ("base", "a", "b"))
    merged = load_file(out)
    assert merged.keys() == base.keys() and int(merged["steps"]) == 0
    for k, share in enumerate((0, 0.5, 1)):  # interpolated over the blocks
        for part, other in (("attn", 0), ("mlp", 0.5)):
            name = f"blocks.{k}.{part}.weight"
            expected = base[name] + share * (a[name] - base[name]) + other * (b[name] - base[name])
            assert torch.equal(merged[name], expected.bfloat16())


def test_bad_configurations(checkpoints):
    good = {"merge_method": "linear", "models": [{"model": "a.safetensors"}, {"model": "b.safetensors"}]}
    out = checkpoints / "merged.safetensors"

    def merged(**changes):
        return merge_files({**good, **changes}, out, folder=checkpoints)

    with pytest.raises(UnknownNameError, match="linear"):
        merged(merge_method="linea")
    with pytest.raises(UnknownNameError, match="slices"):
        merged(slices=[])
    with pytest.raises(ParameterError, match="base"):
        merged(merge_method="ties")
    with pytest.raises(CheckpointError, match=r"c\.safetensors"):
        merged(models=[{"model": "c.safetensors"}])
    with pytest.raises(ParameterError, match="models"):
        merged(models=["a.safetensors"])
    with pytest.raises(ParameterError, match="density"):
        merged(merge_method="ties", base_model="base.safetensors", parameters={"density": 0})
    save_file({"blocks.0.attn.weight": torch.zeros(2, 2)}, checkpoints / "other.safetensors")
    with pytest.raises(ParameterError, match="shape"):
        merged(models=[{"model": "a.safetensors"}, {"model": "other.safetensors"}])
    damaged = load_file(checkpoints / "a.safetensors")
    damaged["blocks.0.attn.weight"][0] = float("nan")
    save_file(damaged, checkpoints / "nan.safetensors")
    with pytest.raises(ParameterError, match="not finite"):
        merged(models=[{"model": "nan.safetensors"}])
    assert not out.exists()
