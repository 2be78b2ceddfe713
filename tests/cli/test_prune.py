import timm
import torch
from typer.testing import CliRunner

from hypergen.cli.main import app
from hypergen.symmetry import Pruned


def test_prune_writes_a_network_that_loads(tmp_path):
    result = CliRunner().invoke(app, ["prune", "timm:test_resnet", "--ratio", "0.5", "--out", str(tmp_path / "small")])
    assert result.exit_code == 0, result.output
    model = timm.create_model("test_resnet").eval()
    small = Pruned.load(tmp_path / "small", model).model
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    assert small(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
