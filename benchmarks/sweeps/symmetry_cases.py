"""The networks whose symmetry is verified: a small one per family of each suite."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.trace_suites import Case, load_suite

SUITES = ("digits", "torchvision", "timm", "transformers", "pytorch")
_HEADS = "CausalLM LMHead ConditionalGeneration SequenceClassification ImageClassification MaskedLM CTC For".split()
# What timm calls its small models, the smallest first.
_SMALL = "test_ _femto atto zepto pico nano xxtiny xxs _ti tiny xs 035 050 s0 small _18 _26 _50".split()


def cases(suite: str) -> Iterator[Case]:
    """The cases of one of :data:`SUITES`."""
    if suite == "digits":
        yield from _digits()
    elif suite == "timm":
        yield from _timm()
    elif suite == "transformers":
        types: dict[str, list[Case]] = {}
        for case in load_suite(suite)[0]:
            types.setdefault(case.name.split("/")[0], []).append(case)
        yield from (min(of_type, key=_without_head) for of_type in types.values())
    elif suite == "torchvision":
        yield from (case for case in load_suite(suite)[0] if case.group == "classification")
    else:
        yield from load_suite(suite)[0]


def _digits() -> Iterator[Case]:
    from hypergen.architectures import SPLITS, load_split

    for name in SPLITS:
        for number, architecture in enumerate(load_split(name)[:100]):
            yield Case(f"{name}-{number}-{architecture.family}", architecture.build, lambda: torch.zeros(1, 1, 8, 8))


def _timm() -> Iterator[Case]:
    import timm

    by_name = {case.name: case for case in load_suite("timm")[0]}
    for module in timm.list_modules():
        names = timm.list_models(module=module)
        if names:
            yield by_name[min(names, key=_smallness)]


def _without_head(case: Case) -> int:
    """Heads return logits, where their bodies return hidden states, of which nothing may then be permuted."""
    return next((rank for rank, part in enumerate(_HEADS) if part in case.name), len(_HEADS))


def _smallness(name: str) -> tuple[int, str]:
    return next((rank for rank, part in enumerate(_SMALL) if part in name), len(_SMALL)), name
