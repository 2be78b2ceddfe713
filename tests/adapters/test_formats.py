import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hypergen.adapters import (
    LowRank,
    check_fit,
    fit_to_base,
    folder_names,
    load_base,
    model_names,
    peft_state,
    read_adapter,
    read_adapters,
    runtime_state,
    with_model_names,
    write_adapter,
)
from hypergen.adapters.names import parse
from hypergen.errors import CheckpointError, ParameterError
from tests.adapters import kinds

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("kind", kinds.NAMES)
def test_every_kind_comes_back_from_its_canonical_form(kind, tmp_path):
    model = kinds.adapted(kind)
    model.save_pretrained(tmp_path / "given")
    adapter = read_adapter(tmp_path / "given")
    write_adapter(adapter.canonical(), tmp_path / "back")
    expected = kinds.outputs(model)
    assert not torch.allclose(expected, kinds.outputs(kinds.base(kind)), atol=1e-2)
    torch.testing.assert_close(kinds.outputs(kinds.loaded(kind, tmp_path / "back")), expected, atol=1e-6, rtol=1e-6)
    # Another scale and rank are another configuration for the same model, but where the base's change needs the rank.
    if kind != "pissa":
        other = adapter.with_scale(1.0).map(lambda update: update.with_rank(6))
        write_adapter(other, tmp_path / "other")
        torch.testing.assert_close(
            kinds.outputs(kinds.loaded(kind, tmp_path / "other")), expected, atol=2e-6, rtol=1e-5
        )


def test_factors_are_one_whatever_the_gauge():
    torch.manual_seed(0)
    up, down = torch.randn(30, 4), torch.randn(4, 20)
    gauge = torch.randn(4, 4) + 3 * torch.eye(4)
    one = LowRank(up, down, 2.0).canonical()
    other = LowRank(up @ torch.linalg.inv(gauge), gauge @ down, 2.0).canonical()
    torch.testing.assert_close(one.up, other.up, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(one.down, other.down, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(one.update(), 2 * up @ down, atol=1e-5, rtol=1e-5)
    # Balanced: the same Gram matrix on both sides, diagonal and descending.
    gram = one.up.T @ one.up
    torch.testing.assert_close(gram, one.down @ one.down.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gram, gram.diagonal().diag(), atol=1e-4, rtol=1e-4)
    assert (one.up.gather(0, one.up.abs().argmax(0)[None]) > 0).all()
    exact = torch.linalg.svdvals(2 * (up @ down).double())[:4]
    torch.testing.assert_close(one.singular_values(), exact, atol=1e-4, rtol=1e-5)
    assert one.inner(other) == pytest.approx(float(exact.square().sum()), rel=1e-4)


@pytest.mark.parametrize("up, down", [(torch.zeros(5, 3), torch.randn(3, 4)), (torch.randn(2, 6), torch.randn(6, 3))])
def test_updates_of_zero_and_ranks_beyond_the_weight_are_canonical_too(up, down):
    one = LowRank(up, down).canonical()
    assert one.up.isfinite().all() and one.rank == down.shape[0]
    torch.testing.assert_close(one.update(), up @ down, atol=1e-5, rtol=1e-5)


def test_factors_of_different_ranks_are_refused():
    with pytest.raises(ParameterError, match="are none of one update"):
        LowRank(torch.zeros(5, 3), torch.zeros(2, 4))


def test_names_of_a_model_and_of_a_folder(tmp_path):
    for kind in ("dora", "embedding", "saved", "biases"):
        model = kinds.adapted(kind)
        model.save_pretrained(tmp_path / kind)
        state = load_file(tmp_path / kind / "adapter_model.safetensors")
        back = folder_names(dict(model.state_dict()))
        assert set(back) == set(state), kind
        assert all(torch.equal(back[key], value) for key, value in state.items())
        lora = {key: value for key, value in state.items() if "lora_" in key}
        assert set(model_names(lora)) <= set(dict(model.named_parameters()))
    with pytest.raises(ParameterError, match="adapter 'other'; there are default"):
        folder_names(dict(model.state_dict()), "other")


def test_an_adapter_in_memory_is_what_servers_take(tmp_path):
    kinds.adapted("rslora").save_pretrained(tmp_path / "one")
    state = runtime_state(read_adapter(tmp_path / "one"))
    assert set(state) == {"peft_config", "lora_tensors"} and state["peft_config"]["use_rslora"]
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in state["lora_tensors"])
    kinds.adapted("dora").save_pretrained(tmp_path / "two")
    with pytest.raises(ParameterError, match="served by no LoRA server"):
        runtime_state(read_adapter(tmp_path / "two"))


def test_bases_in_one_folder_are_told_apart(tmp_path):
    for name, kind, base in (("a", "plain", "one"), ("b", "plain", "one"), ("c", "gpt2", "two"), ("d", "conv", "one")):
        model = kinds.adapted(kind)
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(tmp_path / name)
    groups = {name: [each.name for each in own] for name, own in read_adapters([tmp_path]).items()}
    assert groups == {"one #1": ["a", "b"], "two": ["c"], "one #2": ["d"]}


def test_an_adapter_that_misses_is_an_error(tmp_path):
    kinds.adapted("plain").save_pretrained(tmp_path / "one")
    adapter = read_adapter(tmp_path / "one")
    assert check_fit(adapter, kinds.base("plain")).fits
    with pytest.raises(ParameterError, match="none of its 2 modules is there"):
        check_fit(adapter, kinds.base("gpt2"))
    wrong = kinds.base("plain")
    wrong.v_proj = torch.nn.Linear(9, 6)
    with pytest.raises(ParameterError, match=r"1 misshapen \(v_proj: \[6, 9\], expected \[6, 10\]\)"):
        check_fit(adapter, wrong)
    del wrong.v_proj
    assert fit_to_base(adapter, wrong).missing == ("v_proj",)


def test_a_quantised_base_is_read_as_what_was_quantised(tmp_path):
    model = kinds.adapted("gpt2")
    model.save_pretrained(tmp_path / "adapter")
    kinds.base("gpt2").save_pretrained(tmp_path / "base")
    settings = json.loads((tmp_path / "base" / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "base" / "config.json").write_text(json.dumps(settings))
    base, quantization = load_base(tmp_path / "base")
    fit = fit_to_base(read_adapter(tmp_path / "adapter"), base, quantization)
    assert fit.fits and str(fit) == "fits, 4 modules, quantised (bitsandbytes)"
    with pytest.raises(CheckpointError, match="no config.json"):
        load_base(tmp_path / "adapter")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'; expected LORA"),
        ({"use_qalora": True}, "use_qalora: QALoRA"),
        ({"target_parameters": ["experts.w"]}, "LoRA of bare parameters"),
        ({"r": 3}, "factors of rank 4, and the configuration says 3"),
    ],
)
def test_other_kinds_are_refused_by_name(change, message, tmp_path):
    kinds.adapted("plain").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    "key, message", [("lora_unet_x.hada_w1_a", "LoHa"), ("lora_unet_x.lokr_w1", "LoKr"), ("x.lora_mid.weight", "core")]
)
def test_tensors_of_other_methods_are_refused_by_name(key, message, tmp_path):
    save_file({key: torch.zeros(2, 2)}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_adapter(tmp_path / "file.safetensors")


def test_files_without_an_adapter_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no adapter"):
        read_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="holds no adapter"):
        read_adapters([tmp_path])
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no low-rank update"):
        read_adapter(tmp_path)
    kinds.adapted("plain").save_pretrained(tmp_path / "one")
    (tmp_path / "one" / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="no adapter_config.json beside it"):
        read_adapter(tmp_path / "one")


def image_model():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def denoised(model) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    image, text = torch.randn(1, 4, 8, 8, generator=random), torch.randn(1, 3, 8, generator=random)
    with torch.no_grad():
        return model(image, 3, text).sample


@pytest.mark.parametrize("dora", [False, True])
def test_diffusers_and_kohya_files_come_back(dora, tmp_path):
    model = image_model()
    plain = denoised(model)
    targets = ["to_q", "to_v", "conv1"]
    model.add_adapter(peft.LoraConfig(r=3, lora_alpha=5, target_modules=targets, use_dora=dora))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.add_(0.2 * torch.randn_like(value))
    expected = denoised(model)
    assert not torch.allclose(plain, expected, atol=1e-2)
    model.save_lora_adapter(tmp_path / "unet")
    adapter = read_adapter(tmp_path / "unet")
    # A component's own file has no component before its modules; that of a pipeline has.
    assert adapter.naming == "peft" and next(iter(adapter.modules.values())).scale == pytest.approx(5 / 3)
    file = write_adapter(adapter.canonical(), tmp_path / "pipeline", "diffusers", component="unet")
    kohya = write_adapter(read_adapter(file).canonical(), tmp_path / "kohya", "kohya")
    again = with_model_names(read_adapter(kohya), unet=image_model())
    assert all(update.scale == pytest.approx(5 / 3) for update in again.modules.values())
    write_adapter(again.canonical(), tmp_path / "again", "diffusers")
    for folder in ("pipeline", "again"):
        found = image_model()
        state = load_file(tmp_path / folder / "pytorch_lora_weights.safetensors")
        with safe_open(tmp_path / folder / "pytorch_lora_weights.safetensors", "pt") as opened:
            metadata = json.loads(opened.metadata()["lora_adapter_metadata"])
        found.load_lora_adapter(state, prefix="unet", metadata=metadata)
        torch.testing.assert_close(denoised(found), expected, atol=2e-6, rtol=1e-5)
    write_adapter(again, tmp_path / "folder", "peft")
    assert read_adapter(tmp_path / "folder").signature == adapter.signature
    with pytest.raises(ParameterError, match="underscores for dots"):
        peft_state(read_adapter(kohya))
    with pytest.raises(ParameterError, match="more modules of 'kohya' are none of"):
        with_model_names(read_adapter(kohya), unet=kinds.base("plain"))


@pytest.mark.parametrize(
    "key, module",
    [
        ("unet.mid.attn1.processor.to_q_lora.down.weight", "unet.mid.attn1.to_q"),
        ("unet.mid.attn1.processor.to_out_lora.up.weight", "unet.mid.attn1.to_out.0"),
        ("text_encoder.layers.0.q_proj.lora_linear_layer.up.weight", "text_encoder.layers.0.q_proj"),
        ("transformer.blocks.0.proj.lora_A.weight", "transformer.blocks.0.proj"),
        ("lora_te1_layers_0_q_proj.lora_up.weight", "lora_te1_layers_0_q_proj"),
    ],
)
def test_old_names_of_diffusers_are_known(key, module):
    assert parse(key).module == module
    assert parse("base_model.model.blocks.down.weight") is None
