import pytest
import torch

import hypergen
from hypergen.architectures.by_name import build_model
from hypergen.architectures.hugging_face.small import model_class_names, small_configs, small_model
from hypergen.errors import HypergenError, TraceError, UnknownNameError
from hypergen.graph.properties import violations

# One of each kind: text encoder, decoder and both; long texts; images, windows, detection, clips; waveforms and
# spectrograms; text with images, one of them in a list of patches, and with sounds; experts; state spaces; time series;
# patches that only a run tells how to hand over, sounds that a prompt makes room for only when it complains, widths
# that only a run tells to be equal, stages that look alike.
TYPES = """bert gpt2 llama t5 longformer vit swin detr timesformer wav2vec2 whisper clip llava qwen2_5_vl gemma3 clap
    mixtral deepseek_v3 mamba2 jamba patchtst
    kimi_k25_vision qwen2_audio moss_transcribe_diarize vitmatte swin2sr""".split()
# What these networks have for training or for callers that mask inputs, and do not read without being asked.
UNREAD = {"wav2vec2": ["masked_spec_embed"]}


@pytest.mark.parametrize("model_type", TYPES)
def test_a_small_model_of_each_kind_is_traced_from_what_it_tells(model_type):
    model = small_model(model_type, model_class_names()[model_type][0])
    graph = hypergen.trace(model)
    assert violations(graph, model) == []
    assert list(graph.unused_parameters) == UNREAD.get(model_type, [])
    assert sum(parameter.numel() for parameter in model.parameters()) < 200e6


@pytest.mark.parametrize(
    "name",
    """bert/BertForMultipleChoice bart/BartForSequenceClassification vit/ViTForImageClassification
    segformer/SegformerForSemanticSegmentation wav2vec2/Wav2Vec2ForCTC gpt2/GPT2LMHeadModel""".split(),
)
def test_heads(name):
    model = small_model(*name.split("/"))
    assert violations(hypergen.trace(model), model) == []


def test_a_small_configuration_keeps_one_layer_of_each_kind_and_every_proportion():
    config = next(small_configs("gemma3_text"))
    assert sorted(set(config.layer_types)) == ["full_attention", "sliding_attention"]
    assert config.num_hidden_layers == len(config.layer_types) == 2
    llama = next(small_configs("llama"))
    assert llama.hidden_size == llama.num_attention_heads * llama.head_dim
    assert llama.hidden_size * 11008 == llama.intermediate_size * 4096


def test_what_a_model_is_shown_stands_in_its_prompt():
    from hypergen.graph.inputs import example_arguments

    model = small_model("llava", "LlavaForConditionalGeneration")
    _, inputs = example_arguments(model)
    images = model.config.vision_config
    patches = (images.image_size // images.patch_size) ** 2
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == patches
    assert inputs["pixel_values"].is_meta and not inputs["input_ids"].is_meta


def test_an_argument_that_nothing_tells_is_named():
    import transformers

    with torch.device("meta"):
        model = transformers.GPT2Model(next(small_configs("gpt2")))

    class Strange(type(model)):
        def forward(self, input_ids, phase_of_the_moon):
            return super().forward(input_ids)

    model.__class__ = Strange
    with pytest.raises(TraceError, match="Strange takes 'phase_of_the_moon'.*example_inputs"):
        hypergen.trace(model)


def test_small_models_by_name():
    assert type(build_model("hf-small:gpt2")).__name__ == "GPT2Model"
    assert type(build_model("hf-small:gpt2/GPT2LMHeadModel")).__name__ == "GPT2LMHeadModel"
    with pytest.raises(UnknownNameError, match="Did you mean 'gpt2'"):
        build_model("hf-small:gtp2")
    with pytest.raises(UnknownNameError, match="Did you mean 'GPT2LMHeadModel'"):
        build_model("hf-small:gpt2/GPT2HeadModel")


def test_a_type_that_cannot_be_built_says_why():
    with pytest.raises(HypergenError, match="TimmBackbone cannot be built: ValueError: backbone is not set"):
        small_model("timm_backbone", "TimmBackbone")


def test_a_network_of_eight_billion_parameters():
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_key_value_heads=8, vocab_size=128256
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    graph = hypergen.trace(model)
    assert sum(parameter.numel() for parameter in model.parameters()) > 8e9
    assert graph.tracing_mode == "meta" and graph.unused_parameters == ()
