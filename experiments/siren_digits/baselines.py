"""The simplest ways to tell what SIRENs draw, and to change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.siren_digits.zoo import fit_sirens, multiply_units, render
from hypergen.evaluation.properties.weight_statistics import statistics_table
from hypergen.evaluation.zoo.data import Stacked, flatten, select
from hypergen.functional.stacked_module import StackedModule
from hypergen.symmetry.align.stacked import PermutationGroup, align


@dataclass(frozen=True)
class DrawnPictures:
    """Pictures with the networks that draw them.

    Args:
        networks: [networks, *shape] by parameter.
        pictures: What they were fitted to, [networks, height, width].
        labels: [networks].
    """

    networks: Stacked
    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Of the pictures."""
        return self.pictures.shape[1], self.pictures.shape[2]


def baseline_classes(
    train: DrawnPictures,
    test: DrawnPictures,
    sirens: StackedModule,
    groups: Sequence[PermutationGroup],
    seed: int = 0,
) -> dict[str, Tensor]:
    """What simple methods say that the test networks draw.

    Args:
        train: Training examples to learn from.
        test: Test examples to predict.
        sirens: What the networks are.
        groups: The permutation groups of their hidden units.
        seed: Random seed of methods that draw.

    Returns:
        [networks] by method: ``statistics`` (of weights, with boosted trees), ``flat_ridge`` and ``flat_mlp`` (on the
        weights in a row), ``aligned_ridge`` (with the signs and the order of hidden units made alike first), and what
        the weights cannot tell more than: ``rendered_logistic``, logistic regression on what the networks draw.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def say(model: Any, read: Callable[[DrawnPictures], Tensor]) -> Tensor:
        fitted = make_pipeline(StandardScaler(), model).fit(read(train).numpy(), train.labels.numpy())
        return torch.from_numpy(fitted.predict(read(test).numpy()))

    reference = select(_same_signs(train.networks, groups), torch.arange(1))

    def aligned(drawn: DrawnPictures) -> Tensor:
        return flatten(align(_same_signs(drawn.networks, groups), reference, groups))

    def flat(drawn: DrawnPictures) -> Tensor:
        return flatten(drawn.networks)

    strengths = [10.0**power for power in range(-1, 6)]
    trees = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15, random_state=seed)
    perceptron = MLPClassifier((128,), alpha=1.0, early_stopping=True, max_iter=100, random_state=seed)
    return {
        "statistics": say(trees, lambda drawn: torch.from_numpy(statistics_table([drawn.networks]))),
        "flat_ridge": say(RidgeClassifierCV(strengths), flat),
        "flat_mlp": say(perceptron, flat),
        "aligned_ridge": say(RidgeClassifierCV(strengths), aligned),
        "rendered_logistic": say(
            LogisticRegression(C=0.1, max_iter=300),
            lambda drawn: render(sirens, drawn.networks, drawn.size).flatten(1),
        ),
    }


def baseline_edits(
    train: DrawnPictures, test: DrawnPictures, edit: Callable[[Tensor], Tensor], sirens: StackedModule, steps: int = 160
) -> dict[str, Stacked]:
    """Test networks that simple methods have changed for an edit.

    Args:
        train: Training examples to learn from.
        test: Test networks to edit.
        edit: Pictures to pictures.
        sirens: What the networks are.
        steps: Number of steps of fitting training networks to edited pictures.

    Returns:
        Networks by method: ``no_edit``; ``mean_change``, the mean of how the weights of training networks change when
        they are fitted on to their edited pictures; ``class_mean_change``, that of the digit's class, which it is told;
        ``output_affine``, the factor and the offset of what is drawn that are best for the training networks, set in
        the last layer.
    """
    fitted = fit_sirens(sirens, edit(train.pictures), initial=train.networks, steps=steps)
    changes = {name: value - train.networks[name] for name, value in fitted.items()}
    classes = int(train.labels.max()) + 1
    by_class = {
        name: torch.stack([value[train.labels == number].mean(0) for number in range(classes)])
        for name, value in changes.items()
    }
    drawn = render(sirens, train.networks, train.size).flatten()
    design = torch.stack([drawn, torch.ones_like(drawn)], 1)
    factor, offset = torch.linalg.lstsq(design, edit(train.pictures).flatten()[:, None]).solution[:, 0]
    weight, bias = list(test.networks)[-2:]
    affine = {weight: test.networks[weight] * factor, bias: test.networks[bias] * factor + offset}
    return {
        "no_edit": dict(test.networks),
        "mean_change": {name: value + changes[name].mean(0) for name, value in test.networks.items()},
        "class_mean_change": {name: value + by_class[name][test.labels] for name, value in test.networks.items()},
        "output_affine": {**test.networks, **affine},
    }


def errors(sirens: StackedModule, networks: Stacked, pictures: Tensor) -> Tensor:
    """Mean squared error of what networks draw, [networks], of pictures [networks, height, width]."""
    drawn = render(sirens, networks, (pictures.shape[1], pictures.shape[2]))
    return (drawn - pictures).square().flatten(1).mean(1)


def finetuning_errors(
    sirens: StackedModule, test: DrawnPictures, wanted: Tensor, steps: Sequence[int]
) -> dict[int, Tensor]:
    """Errors [networks] after some numbers of steps of fitting the test networks themselves to edited pictures."""
    return {
        count: errors(sirens, fit_sirens(sirens, wanted, initial=test.networks, steps=count), wanted) for count in steps
    }


def _same_signs(networks: Stacked, groups: Sequence[PermutationGroup]) -> Stacked:
    """Flip hidden units, of odd activation, so that none has a negative bias."""
    changed = dict(networks)
    for group in groups:
        bias = next(name for name, _ in group if changed[name].dim() == 2)
        changed = multiply_units(changed, group, torch.where(changed[bias] < 0, -1.0, 1.0))
    return changed
