"""Tasks on letters that a text names, a small language model that knows their parts, and adapters of it for each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import HypergenError, missing_extra
from hypergen.evaluation.zoo.data import Checkpoints, Stacked
from hypergen.evaluation.zoo.problem import StackedClassification
from hypergen.functional.stacked import Recipe, train_stacked

LETTERS = 26
PROMPT = 2 * LETTERS  # The character ">" after the lower- and the upper-case letters.
PLACES = ("first", "second", "third", "fourth", "last")
CHANGES = (
    "as it is",
    "moved one forward in the alphabet",
    "moved one back in the alphabet",
    "mirrored in the alphabet",
)
CASES = ("lower", "upper")
WORDINGS = (
    "Write the {place} letter, {change}, in {case} case.",
    "Take the {place} letter of the word, write it in {case} case, {change}.",
)
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LetterTask:
    """To answer a word with one letter: which one, changed how, in which case.

    Args:
        place: A key of :data:`PLACES`.
        change: A key of :data:`CHANGES`.
        case: A key of :data:`CASES`.
    """

    place: int
    change: int
    case: int

    @property
    def name(self) -> str:
        """The three numbers."""
        return f"{self.place}{self.change}{self.case}"

    @property
    def features(self) -> list[float]:
        """A bit per place, change and case: what simple methods are told, who cannot read."""
        sizes = (len(PLACES), len(CHANGES), len(CASES))
        chosen = (self.place, self.change, self.case)
        return [float(number == own) for size, own in zip(sizes, chosen, strict=True) for number in range(size)]

    def text(self, wording: int = 0) -> str:
        """The task in words; wordings come round again."""
        parts = {"place": PLACES[self.place], "change": CHANGES[self.change], "case": CASES[self.case]}
        return WORDINGS[wording % len(WORDINGS)].format(**parts)

    def answers(self, words: Tensor) -> Tensor:
        """The character that answers each word.

        Args:
            words: Lower-case letters, ``[words, len(PLACES)]``.

        Returns:
            ``[words]``.
        """
        letter = words[:, self.place]
        changed = (letter, (letter + 1) % LETTERS, (letter - 1) % LETTERS, LETTERS - 1 - letter)[self.change]
        return changed + LETTERS * self.case


@dataclass(frozen=True)
class LetterTasks:
    """All 40 tasks, split; with words to learn and to measure them on.

    Args:
        held_out: Tasks that neither the language model nor the generator is trained on.
        words: By split.
        seed: Random seed of the draw of tasks and words.
    """

    held_out: int = 8
    words: Mapping[str, int] = field(default_factory=lambda: {"train": 2000, "validation": 100, "test": 150})
    seed: int = 0

    @cached_property
    def drawn(self) -> tuple[list[LetterTask], list[LetterTask]]:
        """Tasks for training, and those that are held out."""
        every = [
            LetterTask(*parts) for parts in itertools.product(*(range(len(of)) for of in (PLACES, CHANGES, CASES)))
        ]
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return [every[i] for i in order[self.held_out :]], [every[i] for i in order[: self.held_out]]

    @cached_property
    def data(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By split, prompts ``[words, characters]`` and the number of each among all words, which stands for it."""
        numbers = torch.arange(len(self._words)).split([self.words[split] for split in SPLITS])
        return {split: (prompts(self._words[own]), own) for split, own in zip(SPLITS, numbers, strict=True)}

    def answers(self, tasks: Sequence[LetterTask]) -> Tensor:
        """The right character for every word of all splits, ``[tasks, words]``."""
        return torch.stack([task.answers(self._words) for task in tasks])

    def task_of(self, features: Tensor) -> list[LetterTask]:
        """The tasks that features ``[tasks, …]`` stand for."""
        every = [*self.drawn[0], *self.drawn[1]]
        chosen = (features @ torch.tensor([task.features for task in every]).T).argmax(1)
        return [every[i] for i in chosen.tolist()]

    def problem(self, model: nn.Module) -> StackedClassification:
        """What adapters of a model, which gives the logits of the answer, are for."""
        return StackedClassification(model, self.data, lambda features: self.answers(self.task_of(features)))

    @cached_property
    def _words(self) -> Tensor:
        random = torch.Generator().manual_seed(self.seed)
        return torch.randint(LETTERS, (sum(self.words.values()), len(PLACES)), generator=random)


@dataclass(frozen=True)
class LanguageModel:
    """A small GPT-2 over characters, and its adapters.

    Args:
        hidden: Its width.
        layers: Its blocks.
        heads: Number of attention heads.
        steps: Number of steps of its training.
        batch_size: Words in a step.
        learning_rate: Its peak.
        rank: Rank of adapters, which all linear layers of the blocks get.
        adapter_steps: Number of steps of each adapter's training.
        adapter_learning_rate: At its start.
        orders: Adapters of each task, which see words in different orders.
    """

    hidden: int = 48
    layers: int = 2
    heads: int = 4
    steps: int = 1000
    batch_size: int = 256
    learning_rate: float = 3e-3
    rank: int = 4
    adapter_steps: int = 60
    adapter_learning_rate: float = 1e-2
    orders: int = 2

    def train(self, tasks: Sequence[LetterTask], seed: int) -> Any:
        """Train the model on lines of a word, ">" and the answer to some task, which the line does not name.

        It learns to do every part of the tasks, but has to guess which is meant. The loss of a word is that of its
        answers to all tasks.
        """
        transformers, _ = _libraries()
        torch.manual_seed(seed)
        sizes = {"n_embd": self.hidden, "n_layer": self.layers, "n_head": self.heads, "n_positions": len(PLACES) + 2}
        config = transformers.GPT2Config(
            vocab_size=PROMPT + 1,
            **sizes,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
            bos_token_id=PROMPT,
            eos_token_id=PROMPT,
            use_cache=False,
            attn_implementation="eager",
        )
        model = transformers.GPT2LMHeadModel(config)
        optimizer = torch.optim.AdamW(model.parameters(), self.learning_rate, weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.steps, pct_start=0.1
        )
        random = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            words = torch.randint(LETTERS, (self.batch_size, len(PLACES)), generator=random)
            answers = torch.stack([task.answers(words) for task in tasks], 1)
            chances = model(prompts(words)).logits[:, -1].log_softmax(-1)
            loss = F.nll_loss(chances.unsqueeze(-1).expand(-1, -1, len(tasks)), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return model.eval()

    def with_adapter(self, base: nn.Module, seed: int) -> nn.Module:
        """A copy of the model with a LoRA adapter as PEFT makes it, which changes nothing yet."""
        _, peft = _libraries()
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank,
            target_modules=["c_attn", "c_fc", "c_proj"],
            fan_in_fan_out=True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return peft.get_peft_model(copy.deepcopy(base), config).eval()

    def train_adapters(
        self, model: nn.Module, tasks: Sequence[LetterTask], letters: LetterTasks, seed: int
    ) -> tuple[Checkpoints, dict[str, Tensor]]:
        """Train adapters for tasks, all from the same start.

        Args:
            model: With an adapter; gives the logits of the answer.
            tasks: The tasks.
            letters: Their words.
            seed: Random seed of the orders of words.

        Returns:
            The adapters, those of a task in a row, and their accuracy on validation and test words.
        """
        recipes = [
            Recipe(
                f"{task.name}-{order}",
                self.adapter_steps,
                data_seed=seed * self.orders + order,
                learning_rate=self.adapter_learning_rate,
                task=task.name,
            )
            for task in tasks
            for order in range(self.orders)
        ]
        answers = dict(zip((task.name for task in tasks), letters.answers(tasks).tolist(), strict=True))
        snapshots = train_stacked(
            lambda: copy.deepcopy(model), recipes, letters.data, tasks=answers, schedule="linear", batch_size=32
        )
        last = list(snapshots)[-1]
        if last.diverged:
            raise HypergenError(
                f"{len(last.diverged)} of {len(recipes)} adapters became infinite. Train them with a smaller "
                f"adapter_learning_rate than {self.adapter_learning_rate}."
            )
        numbers = torch.arange(len(tasks)).repeat_interleave(self.orders)
        features = torch.tensor([task.features for task in tasks])
        found = {split: measured["accuracy"] for split, measured in last.metrics.items()}
        return Checkpoints(last.state, features[numbers], numbers), found


def prompts(words: Tensor) -> Tensor:
    """Words ``[words, letters]`` with ">" after them."""
    return F.pad(words, (0, 1), value=PROMPT)


def answering(model: nn.Module) -> nn.Module:
    """A copy of a language model that gives the logits of the next character alone, ``[prompts, characters]``."""
    own = copy.deepcopy(model)
    own.register_forward_hook(_last_logits)
    return own


def trained_parameters(model: nn.Module) -> Stacked:
    """The adapter of a model, as a stack of one."""
    return {name: value.detach()[None] for name, value in model.named_parameters() if value.requires_grad}


def _last_logits(_: nn.Module, inputs: Any, outputs: Any) -> Tensor:
    return outputs.logits[:, -1]


def _libraries() -> tuple[Any, Any]:
    try:
        import peft
        import transformers
    except ImportError as error:
        raise missing_extra("The experiment", str(error.name), "peft") from error
    return transformers, peft
