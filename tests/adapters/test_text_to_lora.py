import json

import pytest
import torch
import yaml
from torch import nn

from hypergen.adapters import write_adapter
from hypergen.errors import CheckpointError, GeneratorError
from hypergen.generators.text_to_lora.model import TextToLora
from tests.adapters import kinds

SHAPES = {"q_proj": (10, 8), "v_proj": (6, 10)}


def saved(folder, arguments=None, **changes):
    """A checkpoint in the form of the authors', of random values."""
    torch.manual_seed(0)
    model = TextToLora(SHAPES, 1, 3, embedding_size=12, latent_size=16, head_size=20, **changes)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.2 * torch.randn_like(value))
    state = dict(model.state_dict())
    for kind, (outputs, inputs) in SHAPES.items():
        for name in ("AB_offset", "mean_recon_target", "std_recon_target"):
            state[f"{name}.A.{kind}"] = torch.rand(1, 3, inputs)
            state[f"{name}.B.{kind}"] = torch.rand(1, outputs, 3)
    torch.save(state, folder / "hypermod.pt")
    names = {"shared_heads": "shared_AB_head", "by_rank": "autoreg_gen", "learned_positions": "learnable_pos_emb"}
    told = {names[key]: value for key, value in changes.items() if key in names}
    (folder / "args.yaml").write_text(yaml.safe_dump({"training_task": "sft", **told, **(arguments or {})}))
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "use_rslora": True, "target_modules": list(SHAPES)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return model, state


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("by_rank, learned", [(False, False), (True, False), (True, True)])
def test_a_checkpoint_is_read_and_its_adapter_loads(shared, by_rank, learned, tmp_path):
    model, state = saved(tmp_path, shared_heads=shared, by_rank=by_rank, learned_positions=learned)
    loaded = TextToLora.from_checkpoint(tmp_path)
    embedding = torch.randn(12)
    for kind in SHAPES:
        down, up = model(embedding, kind)
        found_down, found_up = loaded(embedding, kind)
        torch.testing.assert_close(found_down, down + state[f"AB_offset.A.{kind}"])
        torch.testing.assert_close(found_up, up + state[f"AB_offset.B.{kind}"])
    adapter = loaded.write(embedding, kinds.base("plain"))
    assert adapter.modules["q_proj"].scale == pytest.approx(6 / 3**0.5)
    write_adapter(adapter, tmp_path / "adapter")
    kinds.loaded("plain", tmp_path / "adapter")


def test_the_order_of_modules_matters_and_both_can_be_tried(tmp_path):
    saved(tmp_path)
    embedding = torch.randn(12)
    both = [TextToLora.from_checkpoint(tmp_path, order)(embedding, "q_proj")[0] for order in TextToLora.orders(SHAPES)]
    assert len(both) == 2 and not torch.allclose(*both)
    with pytest.raises(CheckpointError, match="is none of the modules"):
        TextToLora.from_checkpoint(tmp_path, ["q_proj", "k_proj"])


def test_z_scores_are_turned_back(tmp_path):
    model, state = saved(tmp_path, {"training_task": "recon", "factorized": True, "pred_z_score": True})
    down, _ = TextToLora.from_checkpoint(tmp_path)(torch.ones(12), "v_proj")
    expected = model(torch.ones(12), "v_proj")[0] * state["std_recon_target.A.v_proj"]
    expected = expected + state["mean_recon_target.A.v_proj"] + state["AB_offset.A.v_proj"]
    torch.testing.assert_close(down, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"encoder_type": "vq"}, "the encoder 'vq'"),
        ({"training_task": "recon", "pred_z_score": True}, "z-scores of ΔW"),
        ({"shared_AB_head": True}, "does not fit args.yaml"),
    ],
)
def test_what_is_not_read_is_named(arguments, message, tmp_path):
    saved(tmp_path, arguments)
    with pytest.raises(CheckpointError, match=message):
        TextToLora.from_checkpoint(tmp_path)


def test_other_bases_and_files_are_refused(tmp_path):
    saved(tmp_path)
    with pytest.raises(GeneratorError, match="has 0 modules 'q_proj'"):
        TextToLora.from_checkpoint(tmp_path).write(torch.ones(12), nn.Linear(2, 2))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "hypermod.pt")
    with pytest.raises(CheckpointError, match="is no checkpoint of Text-to-LoRA"):
        TextToLora.from_checkpoint(tmp_path)
