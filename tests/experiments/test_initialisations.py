import math

import pytest
import torch

from experiments.initialisations.mimetic import mimetic
from experiments.initialisations.protocol import STARTS, StartsProtocol, compare_starts
from experiments.initialisations.run import networks
from hypergen.architectures.families.token_nets import Attention
from hypergen.data import DigitsDataModule
from hypergen.evaluation.image_data import ImageData


def test_every_start_is_trained_and_compared():
    data = DigitsDataModule()
    chosen = [one for one in networks(data, 1) if one.family in ("cnn", "vit")]
    protocol = StartsProtocol(steps=6, learning_rates=(1e-3,), seeds=2)
    results = compare_starts(ImageData.read(data), chosen, "digits-ghn", protocol)
    for start in STARTS:
        count = 2 if start == "mimetic" else 4  # attention is in one of the two networks
        assert results[f"{start}_final_accuracy"].n == count
        assert math.isfinite(results[f"{start}_first_loss"].value)
    assert results["predicted_first_loss"].value < 1 < results["default_first_loss"].value
    assert results["predicted_steps_share"].value == 0
    assert results["default_steps_share"].value >= 0.8
    assert "default_margin_over_default" not in results
    again = compare_starts(ImageData.read(data), chosen, "digits-ghn", protocol)
    assert results.rows == again.rows


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_looks_like_that_of_trained_networks(heads):
    layer = Attention(64, heads)
    assert mimetic(layer, seed=3) == 1
    query, key, value = layer.qkv.weight.view(3, heads, 64 // heads, 64).unbind()
    logits = (query.mT @ key) / math.sqrt(64 // heads)  # [heads, width, width]
    share = (64 // heads) / 64  # the rank that a head has
    assert (logits.diagonal(dim1=1, dim2=2).mean(1) > 0.5 * share).all()
    torch.testing.assert_close(logits.diagonal(dim1=1, dim2=2).sum(1).mean() / 64, torch.tensor(0.7), atol=0.5, rtol=0)
    mixed = layer.proj.weight @ value.reshape(64, 64)
    torch.testing.assert_close(mixed.diagonal().mean(), torch.tensor(-0.4), atol=0.1, rtol=0)
    rest = mixed - torch.diag(mixed.diagonal())
    torch.testing.assert_close(rest.std(), torch.tensor(0.4 / 8), atol=0.01, rtol=0)


def test_networks_without_attention_stay_as_they_are():
    assert mimetic(torch.nn.Linear(3, 3)) == 0
