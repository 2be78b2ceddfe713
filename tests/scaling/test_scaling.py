import copy

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import hypergen
from hypergen.architectures.families.gpt import GPT
from hypergen.cli.main import app
from hypergen.errors import GeneratorError, ParameterError, UnknownNameError
from hypergen.scaling import coordinate_check, scaling_rules

TOKENS = torch.zeros(2, 8, dtype=torch.int64)


def mlp(width=64, depth=1):
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


def gpt(width=64, depth=2, tied=True):
    return GPT(32, 8, width, depth, width // 16, tied=tied)


# What `mup` 1.0 multiplies the learning rates of MuAdam and MuSGD by, for widths 64 → 256 (m = 4), as its optimizers
# print them for this MLP with a MuReadout; its output multiplier 1/m, which is folded here, is taken out by m and m².
PUBLISHED = {
    "0.weight": (1, 4),
    "0.bias": (1, 4),
    "2.weight": (1 / 4, 1),
    "2.bias": (1, 4),
    "4.weight": (1, 4),
    "4.bias": (1, 1),
}


def test_factors_are_those_of_the_published_package():
    found = scaling_rules(mlp(256), mlp(64)).parameters
    assert found.keys() == PUBLISHED.keys()
    for name, (adam, sgd) in PUBLISHED.items():
        own = found[name]
        assert own.multiplier == (1 / 4 if name == "4.weight" else 1)
        assert (own.adamw_lr / own.multiplier, own.sgd_lr / own.multiplier**2) == (adam, sgd)
        # The product of learning rate and weight decay stays what it was: decay is as fast at every width.
        assert own.adamw_lr * own.adamw_weight_decay == pytest.approx(1)
        assert own.sgd_lr * own.sgd_weight_decay == pytest.approx(1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_folded_multiplier_trains_like_one_in_the_forward_pass(optimizer):
    """MuReadout as the package has it, x / m in the forward pass, against values that hold 1 / m."""
    torch.manual_seed(0)
    x, labels = torch.randn(32, 16), torch.randint(10, (32,))
    own, base = mlp(256).double(), mlp(64).double()
    published = copy.deepcopy(own)
    report = hypergen.initialize(own, scaling="mup", base=base)
    start = {name: value / report.parameters[name].multiplier for name, value in own.state_dict().items()}
    published.load_state_dict(start)
    kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    ours = kind(report.parameter_groups(own, 0.01, optimizer, weight_decay=0.1, eps=1e-12))
    rates = {name: PUBLISHED[name][optimizer == "sgd"] for name in start}
    groups = [
        {"params": [p], "lr": 0.01 * rates[name], "weight_decay": 0.1 / rates[name]}
        for name, p in published.named_parameters()
    ]
    theirs = kind(groups, **({"eps": 1e-12} if optimizer == "adamw" else {}))
    for _ in range(5):
        outputs = []
        for model, stepper, divided in ((own, ours, 1), (published, theirs, 4)):
            hidden = model[:-1](x.double()) / divided
            output = nn.functional.linear(hidden, model[-1].weight, model[-1].bias)
            stepper.zero_grad()
            nn.functional.cross_entropy(output, labels).backward()
            stepper.step()
            outputs.append(output.detach())
        torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-8)


def test_tied_head_is_divided_by_the_norm_in_front_of_it():
    model = gpt(256)
    report = hypergen.initialize(model, scaling="mup", base=gpt(64), example_inputs=TOKENS)
    assert report.parameters["tokens.weight"].adamw_lr == 1
    (multiplier,) = report.multipliers
    assert (multiplier.value, multiplier.folded) == (1 / 4, ("norm.weight", "norm.bias"))
    assert torch.equal(model.norm.weight, torch.full((256,), 0.25))
    assert report.parameters["norm.weight"].adamw_lr == 1 / 4


def test_published_initialisation_is_kept_where_it_agrees():
    torch.manual_seed(0)
    model = mlp(256)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = hypergen.initialize(model, scaling="mup", base=mlp(64))
    assert torch.equal(model[2].weight, before["2.weight"])  # 1 / sqrt(fan_in) already
    assert "4.weight" in report.rescaled
    # As set_base_shapes: the readout's standard deviation stays that of width 64, then the output is divided by 4.
    assert float(model[4].weight.detach().std()) == pytest.approx(1 / 8 / 3**0.5 / 4, rel=0.1)
    assert float(model[2].bias.detach().std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.35)


def test_depth_rules():
    wide = scaling_rules(gpt(64, 8), gpt(64, 2), "completep", example_inputs=TOKENS)
    assert wide.depth == 4
    ends = wide.parameters["blocks.7.feed_forward.fc2.weight"]
    assert (ends.multiplier, ends.adamw_lr) == (1 / 4, 1 / 4)
    inner = wide.parameters["blocks.7.attention.qkv.weight"]
    assert (inner.multiplier, inner.adamw_lr, inner.adamw_eps) == (1, 1, 1 / 4)
    assert wide.parameters["tokens.weight"].adamw_lr == 1
    root = scaling_rules(gpt(64, 8), gpt(64, 2), "depth_mup", example_inputs=TOKENS)
    assert root.parameters["blocks.0.attention.qkv.weight"].adamw_lr == 0.5
    assert root.parameters["blocks.0.attention.proj.weight"].multiplier == 0.5


def test_libraries_networks_have_kinds():
    import timm

    def build(width):
        with torch.device("meta"):
            return timm.create_model(
                "vit_tiny_patch16_224", embed_dim=width, num_heads=width // 32, depth=2, num_classes=10
            )

    kinds = {name: each.kind for name, each in scaling_rules(build(128), build(64)).parameters.items()}
    assert kinds["cls_token"] == kinds["pos_embed"] == kinds["patch_embed.proj.weight"] == "vector"
    assert kinds["blocks.0.attn.qkv.weight"] == kinds["blocks.1.mlp.fc2.weight"] == "hidden"
    assert (kinds["head.weight"], kinds["head.bias"]) == ("readout", "fixed")

    # Widths are rounded to multiples of 8 here.
    depthwise = [timm.create_model(f"mobilenetv2_{percent}") for percent in (140, 100)]
    kinds = {name: each.kind for name, each in scaling_rules(*depthwise).parameters.items()}
    assert kinds["blocks.1.0.conv_dw.weight"] == "vector" and kinds["blocks.1.0.conv_pw.weight"] == "hidden"


def test_head_size_is_reported():
    found = scaling_rules(GPT(32, 8, 128, 1, 2), GPT(32, 8, 32, 1, 2), example_inputs=TOKENS)
    (logits,) = [each for each in found.multipliers if each.place == "on the attention logits"]
    assert logits.value == 0.5 and not logits.folded and "to be applied" in str(found)


def test_third_size_tells_what_grows():
    assert scaling_rules(mlp(64), mlp(64)).parameters["2.weight"].kind == "fixed"
    assert scaling_rules(mlp(64), mlp(64), delta=mlp(32)).parameters["2.weight"].kind == "hidden"


def test_architecture_aware_rates_fall_with_depth():
    found = scaling_rules(mlp(64, 4), mlp(64, 1), "architecture").parameters
    assert found["2.weight"].adamw_lr == pytest.approx((6**3 / 3**3) ** -0.5)  # one path of six layers, of three
    assert found["2.weight"].initial_std == pytest.approx((2 / 64) ** 0.5)
    assert found["10.weight"].initial_std == pytest.approx(2 / 64)


def test_coordinate_check_tells_the_rules_apart():
    worst = {
        rule: coordinate_check(mlp, [32, 512], rule, steps=3, seeds=2, lr=3e-3).worst for rule in ("standard", "mup")
    }
    assert worst["mup"] < 2 < worst["standard"]


def test_check_command(tmp_path):
    options = [
        "--vary",
        "width=32,64",
        "--seeds",
        "1",
        "--steps",
        "1",
        "--plot",
        str(tmp_path / "c.png"),
    ]
    result = CliRunner().invoke(app, ["scaling", "check", "tests.scaling.test_scaling:mlp,depth=2", *options])
    assert result.exit_code == 0, result.output
    assert "worst ratio" in result.output and (tmp_path / "c.png").stat().st_size


def test_errors():
    with pytest.raises(UnknownNameError, match="mup"):
        scaling_rules(mlp(), mlp(), "mupp")
    with pytest.raises(ParameterError, match="no counterpart"):
        scaling_rules(mlp(), nn.Sequential(nn.Linear(16, 4, bias=False)))
    with pytest.raises(GeneratorError, match="base="):
        hypergen.initialize(mlp(), scaling="mup")
    with torch.device("meta"):
        base = mlp(32)
    with pytest.raises(ParameterError, match="meta"):
        hypergen.initialize(mlp(), scaling="mup", base=base)
    report = scaling_rules(mlp(128), mlp())
    with pytest.raises(ParameterError, match=r"module\.0\.weight"):
        report.parameter_groups(nn.ModuleDict({"module": mlp(128)}), 0.1)
    with pytest.raises(UnknownNameError, match="adamw"):
        report.parameter_groups(mlp(128), 0.1, "adam")
    with pytest.raises(ParameterError, match="two widths"):
        coordinate_check(mlp, [32])
