"""A fixed sample of the sweep of ``python -m benchmarks.trace``: each network is traced, right, and wholly read."""

import pytest
import torch

from benchmarks.sweeps.trace_sweep import trace_case
from benchmarks.trace_suites import load_suite

SAMPLE = {
    "torchvision": """alexnet densenet121 googlenet inception_v3 mobilenet_v3_small regnet_y_400mf swin_v2_t vit_b_16
        fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large r3d_18 mvit_v2_s""",
    "timm": """beit_base_patch16_224 convit_tiny convmixer_768_32 convnextv2_atto crossvit_9_240
        eca_nfnet_l0 efficientformer_l1 gcvit_xxtiny ghostnet_100 hrnet_w18_small levit_128s maxvit_nano_rw_256
        mobilenetv4_conv_small nf_resnet50 pit_ti_224 res2net50_14w_8s selecsls42 skresnet18 tiny_vit_5m_224
        vit_tiny_r_s16_p8_224 vit_small_patch16_rope_224 volo_d1_224""",
    "torch_geometric": "GCN GAT GPS GraphUNet PNA graph-classifier top-k-pooling heterogeneous RGCNConv NNConv",
    "peft": "lora dora lora-embedding ia3 oft prefix prompt two-adapters lora-gpt2",
    "diffusers": "UNet1DModel AutoencoderTiny VQModel UNet2DModel",
}

# Heads for training, which evaluation does not run.
UNUSED = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}


def cases():
    for suite, names in SAMPLE.items():
        chosen = names.split()
        yield from ((suite, name) for name in chosen)


@pytest.mark.parametrize(("suite", "name"), cases())
def test_sample_of_the_sweep(suite, name):
    pytest.importorskip(suite)
    [case] = [case for case in load_suite(suite)[0] if case.name == name]
    check(trace_case(case))


def own_cases():
    return load_suite("pytorch")[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("case", own_cases(), ids=lambda case: case.name)
def test_layers_and_wrappers_of_pytorch(case):
    try:
        check(trace_case(case))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def check(traced):
    assert traced.failure == ""
    assert traced.wrong == []
    assert [name for name in traced.unused if not name.startswith(UNUSED.get(traced.case, ()))] == []
    assert traced.unused or traced.covered_values == traced.parameter_values
