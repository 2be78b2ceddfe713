"""What an evaluation of a generator of checkpoints found, in words, and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypergen.evaluation.results import Results

_NEAR_TRAINED = 0.02
_CHANCE_MARGIN = 0.05
_COMPARED = {
    "nearest_condition": "the nearest training network by condition",
    "mean_net": "the mean network",
    "linear": "the linear prediction from the condition",
}
_ADVICE = {
    "fails": (
        "More training (training.steps), a generator that fits a small zoo (generator=gaussian, "
        "generator=flow_matching), or more networks. Check that the networks were aligned (data.align=true), that "
        "data.task gives the inputs they were trained on, and that the zoo has no broken networks "
        "(hypergen zoo show ZOO)."
    ),
    "memorises": (
        "Fewer training steps or a smaller generator (generator.hidden), more weight decay, or more networks: samples "
        "are copies of training networks."
    ),
    "averages": (
        "More weight on reproducing weights than behaviour (training.latent_weight for latent diffusion), or "
        "generator=flow_matching: samples lie between training networks, so an average of these does as well."
    ),
    "adds noise": (
        "A lower sampling temperature where the generator has one, or more networks: training networks with noise do "
        "as well."
    ),
}


def in_words(results: Results, methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Whether sampled networks work, beside what could explain it, and what to try where they do not.

    Args:
        results: Rows of the evaluation.
        methods: By split, a row for the generator and each baseline.
    """
    split, rows = next(iter(methods.items()))
    by_method = {row["method"]: row for row in rows}
    generated, trained = by_method["generated"], by_method["trained"]
    parts = [f"Sampled networks reach {_shown(generated)}; those that were trained, {_shown(trained)}."]
    figures = {row.figure: row for row in results.rows}
    noise = figures.get("noise_at_equal_novelty_accuracy")
    others = [f"{words} {_shown(by_method[name])}" for name, words in _COMPARED.items() if name in by_method]
    if noise is not None:
        others.append(f"training networks with noise, as far from all others, {float(noise.value):.3f}")
    parts.append(f"Beside them: {', '.join(others)}.")
    parts.append(_judgement(generated, trained, by_method, None if noise is None else float(noise.value)))
    prompt = figures.get("generated_prompt_correlation")
    if prompt is not None and math.isfinite(float(prompt.value)):
        parts.append(f"What is asked for and what is obtained correlate by {float(prompt.value):.2f}.")
    distance = (results.details or {}).get("distance_to_mean")
    if distance:
        parts.append(
            f"Hidden units were brought into one order: median distance to the mean {distance['as_imported']:.3g} "
            f"before, {distance['aligned']:.3g} after."
        )
    advice = _ADVICE.get(str(generated["verdict"]))
    if advice:
        parts.append(f"To try: {advice}")
    return f"Held out by {split}. " + " ".join(parts)


def _judgement(
    generated: Mapping[str, Any],
    trained: Mapping[str, Any],
    methods: Mapping[str, Mapping[str, Any]],
    noise: float | None,
) -> str:
    own = float(generated["accuracy"])
    better = [words for name, words in _COMPARED.items() if name in methods and float(methods[name]["accuracy"]) >= own]
    if noise is not None and noise >= own:
        better.append("training networks with noise")
    initial = float(methods["init"]["accuracy"]) if "init" in methods else -math.inf
    if own <= initial + _CHANCE_MARGIN:
        verdict = "They do not work: they are about as good as networks before training."
    elif own >= float(trained["accuracy"]) - _NEAR_TRAINED:
        verdict = "They work about as well as trained ones."
    else:
        verdict = f"They work, but lose {float(trained['accuracy']) - own:.3f} to trained ones."
    if better:
        verdict += f" No better than: {', '.join(better)}."
    return f"{verdict} Verdict: {generated['verdict']}."


def _shown(row: Mapping[str, Any]) -> str:
    return f"{float(row['accuracy']):.3f}"
