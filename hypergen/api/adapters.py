"""From a folder of adapters and a base model's folder to a generator of adapters."""

from __future__ import annotations

import os
import random as python_random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.adapters import load_base
from hypergen.adapters.stack import Form, StackedAdapters, stack_adapters
from hypergen.adapters.zoo import fitting_group, is_zoo, join_texts, read_adapter_zoo, read_named_adapters, read_texts
from hypergen.errors import CheckpointError, HypergenError, missing_extra
from hypergen.functional.files import read_any_json
from hypergen.functional.stacked_outputs import logits_of
from hypergen.generators.text_to_adapter import TextToAdapter, TextToAdapterReport, train_text_to_adapter


@dataclass(frozen=True)
class TrainedTextToAdapter:
    """What came of training.

    Attributes:
        generator: The generator.
        report: How well it does.
        adapters: Number of adapters that it was trained on.
        held_out: Names of those that were held out.
        left_out: Groups of adapters that do not fit the base, and why.
    """

    generator: TextToAdapter
    report: TextToAdapterReport
    adapters: int
    held_out: tuple[str, ...]
    left_out: dict[str, str]


def train_from_folders(
    folder: str | os.PathLike[str],
    base: str | os.PathLike[str],
    texts: str | os.PathLike[str] | None = None,
    *,
    inputs: str | os.PathLike[str] | None = None,
    behaviour: bool = True,
    form: Form = "aligned",
    held_out: int = 0,
    partial: bool = False,
    length: int = 16,
    seed: int = 0,
    **options: Any,
) -> TrainedTextToAdapter:
    """Train a generator of adapters from what lies in folders.

    Args:
        folder: A zoo of adapters, or a folder with adapters below it; those that do not fit the base are left out.
        base: Folder of the base, a language model of Transformers.
        texts: JSON file of texts by name of adapter; a zoo may hold its own.
        inputs: File of texts (JSON list, or lines) or of token numbers (JSON list of lists) that adapted models are
            compared on; by default what the base itself writes.
        behaviour: Whether adapted models are compared at all. Without, the base's values are not read.
        form: Form of the adapters' factors; see :func:`hypergen.adapters.stack_adapters`.
        held_out: Number of adapters, drawn by the seed, that are only measured on.
        partial: Whether adapters without a text, and texts without an adapter, are left out.
        length: Tokens of an input.
        seed: Random seed.
        **options: Further arguments of :func:`hypergen.generators.train_text_to_adapter`.

    Raises:
        ParameterError: Adapters, texts and base do not belong together; the message names what does not.
        CheckpointError: A file cannot be read.
        HypergenError: The base is quantised, or a library is missing.
    """
    shape_only, quantization = load_base(base)
    if behaviour and quantization:
        raise HypergenError(
            f"{str(base)!r} is quantised ({quantization}), and outputs are compared in full precision. "
            "Give the folder of the model that was quantised, or train on the adapters' weights alone with "
            "--no-behaviour."
        )
    left_out: dict[str, str] = {}
    known: dict[str, str | list[str]] = {}
    if is_zoo(folder):
        stacked, names, known = read_adapter_zoo(folder)
    else:
        own, left_out = fitting_group(read_named_adapters(folder), shape_only)
        stacked, names = stack_adapters(own, form), [adapter.name for adapter in own]
    known = read_texts(texts) if texts is not None else known
    if not known:
        raise HypergenError("There are no texts. Give a JSON file of texts by name of adapter with --texts.")
    rows = join_texts(names, known, partial)
    stacked = StackedAdapters({key: value[rows] for key, value in stacked.parameters.items()}, stacked.config)
    names = [names[row] for row in rows]
    if held_out >= len(names):
        raise HypergenError(f"{held_out} of {len(names)} adapters held out leaves none to train on. Hold out fewer.")
    apart = python_random.Random(seed).sample(range(len(names)), held_out)
    model: nn.Module = language_model(base) if behaviour else shape_only
    probes = probe_inputs(model, base, inputs, length=length, seed=seed) if behaviour else None
    chosen = [known[name] for name in names]
    generator, report = train_text_to_adapter(
        stacked, chosen, model, probes, form=form, held_out=apart, seed=seed, **options
    )
    return TrainedTextToAdapter(
        generator, report, len(names) - held_out, tuple(names[number] for number in apart), left_out
    )


def language_model(folder: str | os.PathLike[str]) -> nn.Module:
    """A language model of Transformers from a folder, as stacked adapters can run it.

    Raises:
        HypergenError: It cannot be loaded, or Transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("A language model", "transformers", "transformers") from error
    try:
        # Attention that is written out is what `vmap` runs for all adapters together.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder), local_files_only=True, attn_implementation="eager", dtype=torch.float32
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{str(folder)!r} is no language model of Transformers: {error}") from error
    model.config.use_cache = False
    return model.eval()


@torch.no_grad()
def probe_inputs(
    model: nn.Module,
    folder: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    *,
    number: int = 256,
    length: int = 16,
    seed: int = 0,
) -> Tensor:
    """Token numbers ``[number, length]`` that adapted models are compared on.

    Args:
        model: The base.
        folder: Its folder, with a tokenizer where ``file`` holds texts.
        file: Texts or token numbers; by default the base writes its own, from a token drawn at random.
        number: Number of inputs, at most.
        length: Tokens of each.
        seed: Random seed.

    Raises:
        CheckpointError: The file holds something else, or too little, or there is no tokenizer.
    """
    random = torch.Generator().manual_seed(seed)
    if file is None:
        config: Any = model.config
        tokens = torch.randint(int(config.get_text_config().vocab_size), (number, 1), generator=random)
        for _ in range(length - 1):
            chances = logits_of(model(tokens))[:, -1].softmax(-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=random)], 1)
        return tokens
    path = Path(file)
    given = read_any_json(path) if path.suffix == ".json" else path.read_text(encoding="utf-8").splitlines()
    if not isinstance(given, list) or not given:
        raise CheckpointError(f"{str(file)!r} holds no list of texts or of token numbers.")
    if all(isinstance(row, list) for row in given):
        lengths = {len(row) for row in given}
        if len(lengths) == 1 and all(isinstance(token, int) for row in given for token in row):
            return torch.tensor(given)
        raise CheckpointError(f"{str(file)!r}: token numbers must be lists of one length; got {sorted(lengths)[:5]}.")
    try:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder), local_files_only=True)
    except Exception as error:  # Libraries of tokenizers raise errors of many kinds.
        raise CheckpointError(
            f"{str(folder)!r} has no tokenizer for the texts in {str(file)!r} ({type(error).__name__}). Add it, or "
            "give token numbers: a JSON list of lists of one length."
        ) from error
    flat = torch.tensor([token for text in given for token in tokenizer(str(text))["input_ids"]])
    if not len(flat):  # Transformers makes an empty tokenizer where there are no files of one.
        raise CheckpointError(f"{str(folder)!r} has no tokenizer that knows the texts in {str(file)!r}. Add it.")
    if len(flat) < length:
        raise CheckpointError(f"{str(file)!r} has {len(flat)} tokens; at least {length} are needed.")
    windows = flat[: len(flat) // length * length].view(-1, length)
    return windows[torch.randperm(len(windows), generator=random)[:number]]
