"""Quantised weight tokens, written one after another by a causal transformer (IGPG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError
from hypergen.generators.conditions import ConditionEncoder
from hypergen.generators.registry import register_generator
from hypergen.generators.token_statistics import TokenStatistics
from hypergen.generators.vector_quantizer import VectorQuantizer
from hypergen.generators.weight_autoencoder import PositionFeatures
from hypergen.generators.zoo_generator import Condition, ZooGenerator
from hypergen.graph import ComputationalGraph


@register_generator
class AutoregressiveGenerator(ZooGenerator):
    """Writes a network as a text of codes, which follow a prefix of condition and architecture.

    Bedionita et al., *Instruction-Guided Autoregressive Neural Network Parameter Generation*, 2025 (arXiv 2504.02012).
    A quantised autoencoder turns each weight token into some codes of one codebook; GPT-2 (transformers) predicts each
    code from those before it, from where it stands, from the condition (code, metric, text or labelled examples) and
    from the architecture (the mean of its tokens' position features). What codes leave out of a token is lost.

    Args:
        layouts: Those of the zoo, each a shape by parameter name.
        token_size: Values per token.
        codes_per_token: Codes that a token becomes.
        codebook_size: Different codes.
        code_length: Length of a codebook's entry.
        width: Of both networks.
        depth: Blocks of the transformer.
        heads: Of attention.
        code_size: Numbers in a task code; 0 for none. This and the next four are those of
            :class:`~hypergen.generators.conditions.ConditionEncoder`.
        metric_size: Metrics to reach.
        text_buckets: Different words of a text.
        example_size: Values in a labelled example's input.
        example_labels: Different labels of examples.
        temperature: Of sampling; 0 takes the most probable code.

    Shapes:
        tokens ``[networks, num_tokens, token_size]`` ↔ codes ``[networks, num_tokens, codes_per_token]``, int64.
    """

    def __init__(
        self,
        layouts: Sequence[Mapping[str, Sequence[int]]],
        token_size: int = 64,
        codes_per_token: int = 4,
        codebook_size: int = 256,
        code_length: int = 16,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        code_size: int = 0,
        metric_size: int = 0,
        text_buckets: int = 0,
        example_size: int = 0,
        example_labels: int = 0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.codes_per_token, self.temperature = codes_per_token, temperature
        self.statistics = TokenStatistics(layouts, token_size)
        self.read_positions, self.write_positions = PositionFeatures(width, width), PositionFeatures(width, width)
        self.read = nn.Linear(token_size, width)
        self.encoder = nn.Sequential(
            nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, codes_per_token * code_length)
        )
        self.quantizer = VectorQuantizer(codebook_size, code_length)
        self.decode_entries = nn.Linear(codes_per_token * code_length, width)
        self.decoder = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, token_size))
        self.condition_encoder = ConditionEncoder(
            width, code_size, metric_size, text_buckets, example_size, example_labels
        )
        self.positions = PositionFeatures(width, width)
        self.places = nn.Embedding(codes_per_token, width)
        self.codes = nn.Embedding(codebook_size, width)
        longest = max(layout.num_tokens for layout in self.statistics.layouts) * codes_per_token
        self.transformer = _gpt2(width, depth, heads, longest + 1)
        self.predict_code = nn.Linear(width, codebook_size)

    @property
    def condition_kinds(self) -> tuple[str, ...]:
        """The kinds of condition that it knows."""
        return self.condition_encoder.kinds

    def code_vectors(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """What is quantised: ``[networks, num_tokens, codes_per_token, code_length]``."""
        return self.encoder(self.read(tokens) + self.read_positions(positions)).unflatten(2, (self.codes_per_token, -1))

    def tokens_of(self, entries: Tensor, positions: Tensor) -> Tensor:
        """Tokens of codebook entries; undoes :meth:`code_vectors` as well as it can."""
        return self.decoder(self.decode_entries(entries.flatten(2)) + self.write_positions(positions))

    def logits(self, codes: Tensor, positions: Tensor, condition: Tensor) -> Tensor:
        """What each code could be, given those before it.

        Args:
            codes: ``[networks, num_tokens, codes_per_token]``.
            positions: ``[num_tokens, NUM_POSITIONS]``.
            condition: Embedded, ``[networks, width]``.

        Returns:
            ``[networks, num_tokens, codes_per_token, codebook_size]``.
        """
        prefix, places = self._prefix(positions, condition)
        # Each input is the code before, and the place of the code to predict.
        before = torch.cat([prefix, self.codes(codes.flatten(1)[:, :-1])], 1) + places
        out = self.transformer(inputs_embeds=before).last_hidden_state
        return self.predict_code(out).unflatten(1, codes.shape[1:])

    @torch.no_grad()
    def draw(self, positions: Tensor, condition: Tensor, random: torch.Generator) -> Tensor:
        """Sample codes one by one, ``[networks, num_tokens, codes_per_token]``."""
        step, places = self._prefix(positions, condition)
        cache, drawn = None, []
        for place in range(places.shape[1]):
            out = self.transformer(
                inputs_embeds=step + places[:, place : place + 1], past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            logits = self.predict_code(out.last_hidden_state[:, 0]).cpu()
            if self.temperature:
                code = torch.multinomial((logits / self.temperature).softmax(1), 1, generator=random)
            else:
                code = logits.argmax(1, keepdim=True)
            drawn.append(code.to(positions.device))
            step = self.codes(drawn[-1])
        return torch.cat(drawn, 1).unflatten(1, (-1, self.codes_per_token))

    def sample_stacked(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        random: torch.Generator,
        example_inputs: Any = None,
    ) -> dict[str, Tensor]:
        """Write codes and turn them into weights.

        Raises:
            GeneratorError: A condition is unknown, missing or does not fit, or the layout was not in the zoo.
        """
        number = self.statistics.number_of(target)
        known = {name: value.to(self.device) for name, value in self.condition_encoder.collate(conditions).items()}
        positions = self.statistics.positions(number, self.device)
        codes = self.draw(positions, self.condition_encoder(known, len(conditions)), random)
        return self.statistics.decode(number, self.tokens_of(self.quantizer.codebook[codes], positions))

    def _prefix(self, positions: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """What precedes the first code, ``[networks, 1, width]``; each one's place, ``[networks, codes, width]``."""
        features = self.positions(positions)
        prefix = condition[:, None] + features.mean(0)
        places = features[:, None] + self.places.weight
        # A place knows the condition too: one that is said only once is forgotten over a long text.
        return prefix, places.flatten(0, 1)[None] + condition[:, None]


def _gpt2(width: int, depth: int, heads: int, length: int) -> nn.Module:
    try:
        from transformers import GPT2Config, GPT2Model
    except ImportError as error:
        raise GeneratorError(
            "An AutoregressiveGenerator needs transformers. Install it: pip install 'hypergen[transformers]'."
        ) from error
    config = GPT2Config(
        vocab_size=1, bos_token_id=0, eos_token_id=0, n_positions=length, n_embd=width, n_layer=depth, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2Model(config)
