"""Share of public networks whose activations stay near those of their own initialisation, after ``initialize``.

Run with ``python -m benchmarks.activation_scale --timm 300 --torchvision``. Every network is built with its own
initialisation, run on standard normal images, initialised by the generator without data, and run on other images; its
activations are right if the root mean square of every module's output is within a factor 4 of what it was before.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import warnings

import torch

import hypergen
from hypergen.api.bound_scale import BOUND, beyond_bound
from hypergen.api.probe import activation_scales


def measure(name: str, side: int, training: bool, scale: str, seed: int) -> tuple[bool, float, str]:
    """Whether a network stays within the bound, the seconds that its initialisation took, and the worst module."""
    torch.manual_seed(seed)
    if name.startswith("timm:"):
        import timm

        options = {"pretrained": False}
        try:
            model = timm.create_model(name[5:], img_size=side, **options)
        except TypeError:
            model = timm.create_model(name[5:], **options)
    else:
        import torchvision

        model = torchvision.models.get_model(name[12:], weights=None)
    images = torch.randn(2, 3, side, side)
    try:
        own, _ = activation_scales(model, ((images,), {}), training=training)
    except Exception:  # it does not take images of this size
        side = getattr(model, "pretrained_cfg", {"input_size": (3, 224, 224)})["input_size"][-1]
        images = torch.randn(2, 3, side, side)
        own, _ = activation_scales(model, ((images,), {}), training=training)
    start = time.perf_counter()
    hypergen.initialize(model, example_inputs=images[:1], scale=scale)
    seconds = time.perf_counter() - start
    now, _ = activation_scales(model, ((torch.randn_like(images),), {}), training=training)
    outside = beyond_bound(now, own)
    return not outside, seconds, f"{outside[0][0]} {now[outside[0]]:.3g} for {own[outside[0]]:.3g}" if outside else ""


def main() -> None:
    """Measure a seeded sample; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timm", type=int, default=300, help="Number of timm names, drawn at random.")
    parser.add_argument("--torchvision", action="store_true", help="Whether torchvision's classifiers are measured.")
    parser.add_argument(
        "--side", type=int, default=64, help="Height and width of the images, where a network takes it."
    )
    parser.add_argument("--seed", type=int, default=0, help="Random seed of the sample and of the networks.")
    parser.add_argument("--training", action="store_true", help="Normalise by the batch instead of kept statistics.")
    parser.add_argument("--scale", default="auto", help="auto, bounded or predicted, as in hypergen.initialize.")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="Time after which no network is begun.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names: list[str] = []
    if options.timm:
        import timm

        names += [f"timm:{n}" for n in random.Random(options.seed).sample(sorted(timm.list_models()), options.timm)]
    if options.torchvision:
        import torchvision

        names += [f"torchvision:{n}" for n in torchvision.models.list_models(module=torchvision.models)]
    right, done, skipped, begin = 0, 0, 0, time.perf_counter()
    for name in names:
        if time.perf_counter() - begin > options.seconds:
            break
        try:
            within, seconds, worst = measure(name, options.side, options.training, options.scale, options.seed)
        except Exception as error:
            skipped += 1
            print(f"{name}: skipped, {type(error).__name__}: {str(error)[:120]}", flush=True)
            continue
        done, right = done + 1, right + within
        print(f"{name}: {'within' if within else 'outside, ' + worst} ({seconds:.1f} s)", flush=True)
    row = {"figure": "share_within_factor_4", "value": right / max(done, 1), "n": done, "aim": 0.98, "better": "higher"}
    print(json.dumps({"name": "activation_scale", "seed": options.seed, "bound": BOUND, "skipped": skipped,
                      "training": options.training, "scale": options.scale, "rows": [row]}))  # fmt: skip


if __name__ == "__main__":
    main()
