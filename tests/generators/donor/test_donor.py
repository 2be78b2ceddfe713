"""Networks that start from trained networks of another size, of every kind of layer."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import hypergen
from hypergen.errors import CheckpointError, ParameterError, UnknownNameError
from hypergen.generators.donor import map_parameters
from hypergen.generators.donor.axes import map_axis, select
from hypergen.symmetry.structure import Group, Product, Sum

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

IMAGE = torch.zeros(1, 3, 32, 32)
TOKENS = {"input_ids": torch.arange(16)[None]}


def cnn(width, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10),
    )  # fmt: skip
    for name, buffer in model.named_buffers():
        if "running_var" in name:
            buffer.uniform_(0.5, 1.5)
        elif "running_mean" in name:
            buffer.uniform_(-0.2, 0.2)
    return model


def vit(width, heads, depth, **options):
    torch.manual_seed(1)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=width, num_heads=heads, depth=depth, num_classes=10, **options
    )
    return scrambled(model)


def gpt(width, heads, depth):
    config = transformers.GPT2Config(
        n_layer=depth, n_head=heads, n_embd=width, vocab_size=50, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    return scrambled(transformers.GPT2LMHeadModel(config))


def llama(width, heads, groups, depth):
    config = transformers.LlamaConfig(
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=groups, intermediate_size=2 * width,
        num_hidden_layers=depth, vocab_size=50,
    )  # fmt: skip
    return scrambled(transformers.LlamaForCausalLM(config))


def scrambled(model, seed=2):
    """Other values than those of initialisation, where zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("target", "donor", "inputs", "depth"),
    [
        pytest.param(lambda: cnn(16), lambda: cnn(8, 1), IMAGE, "even", id="cnn-2x"),
        pytest.param(lambda: cnn(12), lambda: cnn(8, 1), IMAGE, "even", id="cnn-1.5x"),
        pytest.param(lambda: vit(64, 4, 2), lambda: vit(32, 2, 2), IMAGE, "even", id="vit-2x"),
        pytest.param(lambda: vit(32, 2, 5), lambda: vit(32, 2, 3), IMAGE, "identity", id="vit-deeper"),
        pytest.param(lambda: gpt(64, 4, 2), lambda: gpt(32, 2, 2), TOKENS, "even", id="gpt-2x-tied"),
        pytest.param(lambda: gpt(32, 2, 4), lambda: gpt(32, 2, 2), TOKENS, "identity", id="gpt-deeper"),
        pytest.param(lambda: llama(64, 8, 4, 2), lambda: llama(32, 4, 2, 2), TOKENS, "even", id="llama-2x"),
    ],
)
def test_growing_keeps_the_function(target, donor, inputs, depth):
    mapping = map_parameters(target(), donor(), example_inputs=inputs, depth=depth, verify=True)
    assert mapping.share == 1
    assert mapping.exact, mapping.error


def test_a_wrong_map_is_not_called_exact():
    """Shares that do not sum to one show in the measured difference."""
    mapping = map_parameters(cnn(16), cnn(8, 1), example_inputs=IMAGE, verify=True)
    assert mapping.exact
    narrow = map_parameters(cnn(4), cnn(8, 1), example_inputs=IMAGE, verify=True)
    assert not narrow.exact and narrow.error > 1e-3


def test_copies_differ_so_that_training_parts_them():
    mapping = map_parameters(cnn(16), cnn(8, 1), example_inputs=IMAGE)
    weight = mapping.parameters["3.weight"]
    assert torch.equal(weight[:16, :, 0, 0] > 0, weight[16:, :, 0, 0] > 0)
    assert not torch.allclose(weight[:, :8], weight[:, 8:])


def test_two_libraries_spell_one_network():
    torchvision = pytest.importorskip("torchvision")
    target = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 128, num_classes=10)
    mapping = map_parameters(target, vit(32, 2, 2), example_inputs=IMAGE, verify=True)
    assert mapping.share == 1 and mapping.exact


def test_narrower_takes_the_same_channels_along_every_axis_of_a_group():
    donor = cnn(8, 1)
    mapping = map_parameters(cnn(4), donor, example_inputs=IMAGE)
    kept = select(4, 8)
    assert torch.equal(mapping.parameters["0.weight"], donor[0].weight[kept])
    assert torch.equal(mapping.buffers["1.running_mean"], donor[1].running_mean[kept])
    assert torch.equal(mapping.parameters["3.weight"], donor[3].weight[select(8, 16)][:, kept])


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [("even", [0, 4, 7, 11]), ("first", [0, 1, 2, 3]), ("last", [8, 9, 10, 11]), ("stack", [0, 1, 2, 3])],
)
def test_which_blocks_a_shallower_network_takes(depth, blocks):
    mapping = map_parameters(vit(32, 2, 4), vit(32, 2, 12), example_inputs=IMAGE, depth=depth)
    origins = {source.name: source.donor for source in mapping.sources}
    assert [origins[f"blocks.{number}.mlp.fc1.weight"] for number in range(4)] == [
        f"blocks.{number}.mlp.fc1.weight" for number in blocks
    ]


def test_other_classes_keep_their_own_head():
    torch.manual_seed(0)
    target = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    donor = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    before = target[4].weight.clone()
    mapping = hypergen.initialize(target, donor=donor, example_inputs=IMAGE)
    assert {source.name for source in mapping.sources if source.how == "left"} == {"4.weight", "4.bias"}
    assert torch.equal(target[0].weight, donor[0].weight) and torch.equal(target[4].weight, before)


def test_heads_stay_whole():
    heads, inner, outer = Group("h", 4), Group("d", 3), Group("c", 2)
    axis = Product((Sum((Group("1", 1, fixed="x"), Group("2", 1, fixed="x"))), heads, inner))
    other = Product((Sum((Group("1", 1, fixed="x"), Group("2", 1, fixed="x"))), outer, Group("e", 3)))
    mapped = map_axis(other, axis)
    assert mapped.index.tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]


def test_from_a_file_and_from_a_folder(tmp_path):
    donor = cnn(8, 1)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in donor.state_dict().items()}}, tmp_path / "donor.pth")
    for name in ("donor.safetensors", "donor.pth"):
        target = cnn(16)
        mapping = hypergen.initialize(
            target, donor=tmp_path / name, donor_model=cnn(8), example_inputs=IMAGE, verify=True
        )
        assert mapping.exact
    small = llama(32, 4, 2, 2)
    small.save_pretrained(tmp_path / "llama")
    mapping = hypergen.initialize(llama(64, 8, 4, 2), donor=tmp_path / "llama", example_inputs=TOKENS, verify=True)
    assert mapping.exact


def test_frozen_parameters_keep_their_values_and_errors_leave_the_target():
    target, donor = cnn(16), cnn(8, 1)
    target[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    hypergen.initialize(target, donor=donor, example_inputs=IMAGE)
    assert torch.equal(target[0].weight, before["0.weight"]) and not torch.equal(target[3].weight, before["3.weight"])
    broken = cnn(8)
    with torch.no_grad():
        broken[3].weight[0] = torch.nan
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ParameterError, match="'3.weight' holds values that are not finite"):
        hypergen.initialize(target, donor=broken, example_inputs=IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_errors(tmp_path):
    target = cnn(16)
    with pytest.raises(ParameterError, match="no operation with parameters is common"):
        hypergen.initialize(target, donor=nn.Embedding(5, 3), donor_inputs=torch.tensor([1]), example_inputs=IMAGE)
    with pytest.raises(UnknownNameError, match="depth"):
        hypergen.initialize(target, donor=cnn(8), depth="evn", example_inputs=IMAGE)
    with pytest.raises(CheckpointError, match="donor_model="):
        hypergen.initialize(target, donor=cnn(8).state_dict(), example_inputs=IMAGE)
    with pytest.raises(CheckpointError, match="holds no weights"):
        hypergen.initialize(target, donor=tmp_path, example_inputs=IMAGE)
    with pytest.raises(TypeError, match="without `donor=`"):
        hypergen.initialize(target, width="uniform")


def test_dense_blocks_of_another_depth():
    def dense(layers):
        return timm.models.densenet.DenseNet(growth_rate=4, block_config=(layers, layers), num_classes=5)

    mapping = map_parameters(dense(2), dense(3), example_inputs=IMAGE)
    assert mapping.share == 1


def test_layers_paired_by_name():
    def mlp():
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(),
                             nn.Linear(6, 3), nn.LayerNorm(3))  # fmt: skip

    target, donor, inputs = mlp(), mlp(), torch.zeros(1, 4)
    mapping = map_parameters(target, donor, example_inputs=inputs, match={"2": "4", "4.weight": "2", "6": None})
    origins = {source.name: source.donor for source in mapping.sources}
    assert origins["2.weight"] == "4.weight" and origins["4.bias"] == "2.bias" and origins["0.weight"] == "0.weight"
    assert "6.weight" not in mapping.parameters and torch.equal(mapping.parameters["2.weight"], donor[4].weight)
    mapping = map_parameters(
        vit(32, 2, 2), vit(32, 2, 3), example_inputs=IMAGE, match={"blocks.*.mlp.fc1": "blocks.*.mlp.fc1"}
    )
    origins = {source.name: source.donor for source in mapping.sources}
    assert origins["blocks.1.mlp.fc1.weight"] == "blocks.1.mlp.fc1.weight"
    assert origins["blocks.1.mlp.fc2.weight"] == "blocks.2.mlp.fc2.weight"  # spaced out
    for match, error, message in (
        ({"2": "*"}, ParameterError, "ambiguous: it is 5 layers of the donor, '0', '2'"),
        ({"2": "7"}, ParameterError, "'2' is a linear, the donor's '7' a layer_norm"),
        ({"2": "9"}, UnknownNameError, "layer of the donor"),
        ({"x": "2"}, UnknownNameError, "layer of the target"),
    ):
        with pytest.raises(error, match=message.replace("*", r"\*")):
            map_parameters(target, donor, example_inputs=inputs, match=match)


def test_donors_of_other_dtypes_and_damaged_ones(tmp_path):
    donor = cnn(8, 1)
    target = cnn(8)
    mapping = hypergen.initialize(
        target, donor=cnn(8, 1).bfloat16(), example_inputs=IMAGE, donor_inputs=IMAGE.bfloat16()
    )
    assert mapping.share == 1 and target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, donor[0].weight.bfloat16().float())
    before = {name: value.clone() for name, value in target.state_dict().items()}
    quantised = {**donor.state_dict(), "3.weight": (donor[3].weight * 100).to(torch.int8)}
    with pytest.raises(CheckpointError, match="quantised: '3.weight' holds torch.int8"):
        hypergen.initialize(target, donor=quantised, example_inputs=IMAGE)
    save_file(donor.state_dict(), tmp_path / "whole.safetensors")
    torch.save(donor.state_dict(), tmp_path / "whole.pth")
    torch.save(donor, tmp_path / "module.pth")
    files = [tmp_path / "module.pth"]
    for name in ("whole.safetensors", "whole.pth"):
        content = (tmp_path / name).read_bytes()
        files.append(tmp_path / f"cut_{name}")
        files[-1].write_bytes(content[: len(content) // 2])
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "model.safetensors.index.json").write_text('{"weight_map": {"0.weight": "a.safetensors"}}')
    for file in (*files, shards, tmp_path / "nothing.pth"):
        with pytest.raises((CheckpointError, FileNotFoundError)):
            hypergen.initialize(target, donor=file, example_inputs=IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
