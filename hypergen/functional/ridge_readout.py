"""Solve the last linear layer of a classifier in closed form on labelled data.

With features ``X`` (what the layer reads) and one-hot targets ``Y``, both centred, ridge regression gives

    W = Yᵀ X (Xᵀ X + λ s I)⁻¹,   b = mean(Y) − W mean(X),

where ``s`` is the mean eigenvalue of ``Xᵀ X``, so that ``λ`` means the same for features of any scale. The error that
a sample would have were it left out follows without solving again (Allen, "The relationship between variable selection
and data augmentation", 1974): its residual over ``1 − hᵢ``, where ``hᵢ`` is its leverage. Where the network averages
what the layer gives at each position, as all-convolutional networks do, so are the features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import ParameterError, UnknownNameError
from hypergen.functional.batches import evaluation_mode, labels_of, run_on_batch
from hypergen.functional.check import expected_shapes
from hypergen.functional.stacked_outputs import logits_of

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_KEPT = 2048  # Samples that are left out in turn: the first ones.

Head = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class RidgeHead(NamedTuple):
    """What :func:`fit_ridge_head` did."""

    name: str
    """The layer that was written."""
    samples: int
    """Samples that it was solved on."""
    regularization: float
    """The ridge strength."""
    left_out_error: float
    """Mean squared error, over classes and samples, of samples that are each left out in turn; NaN for a single one."""
    left_out_accuracy: float
    """Share of them that are classified right."""


class _Moments:
    """Sums over samples that the normal equations need, of features shifted by the mean of the first batch.

    The shift keeps the digits that the difference of ``Σ x xᵀ`` and ``n mean meanᵀ`` would lose.
    """

    def __init__(self, first: Tensor, classes: int) -> None:
        features = first.shape[1]
        self.shift = first.mean(0)  # [features]
        self.samples = 0
        self.feature_sum = first.new_zeros(features)
        self.target_sum = first.new_zeros(classes)
        self.gram = first.new_zeros(features, features)
        self.cross = first.new_zeros(features, classes)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def add(self, features: Tensor, targets: Tensor) -> None:
        features = features - self.shift
        if self.samples < _KEPT:
            self.kept.append((features[: _KEPT - self.samples].float(), targets[: _KEPT - self.samples]))
        self.samples += len(features)
        self.feature_sum += features.sum(0)
        self.target_sum += targets.sum(0)
        self.gram.addmm_(features.T, features)
        self.cross.addmm_(features.T, targets)

    def centred(self) -> tuple[Tensor, Tensor]:
        """``Xᵀ X`` and ``Xᵀ Y`` with both centred: ``[features, features]``, ``[features, classes]``."""
        mean = self.feature_sum / self.samples
        gram = self.gram - torch.outer(mean, self.feature_sum)
        return gram, self.cross - torch.outer(mean, self.target_sum)

    def raw(self) -> tuple[Tensor, Tensor]:
        """``Xᵀ X`` and ``Xᵀ (Y − 1/classes)`` of the features as they are.

        Without an intercept only a constant may be taken off the targets: it shifts all classes alike.
        """
        shift, total = self.shift, self.feature_sum
        gram = self.gram + torch.outer(shift, total) + torch.outer(total, shift) + self.samples * shift.outer(shift)
        cross = self.cross + torch.outer(shift, self.target_sum)
        feature_sum = total + self.samples * shift
        return gram, cross - feature_sum[:, None] / len(self.target_sum)


def fit_ridge_head(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    regularization: float | None = None,
    head: str | None = None,
    num_classes: int | None = None,
    max_batches: int | None = None,
) -> RidgeHead:
    """Replace the last linear layer of ``model`` by the ridge-regression solution on labelled data.

    A convolution of a single pixel is a linear layer, too, where the logits are the mean of what it gives at each
    position (of its positive part, as in SqueezeNet, which the solution leaves out of account).

    The model runs in evaluation mode, so calibrate batch norms first. Everything is summed and solved in float64, in
    one pass over the data.

    Args:
        model: The classifier; the weight and bias of its head change in place, and nothing else does.
        batches: Batches of (inputs, labels), or dictionaries with ``labels`` or ``label`` beside the keyword
            arguments of the model. Labels are class indices.
        regularization: Ridge strength as a multiple of the mean eigenvalue of the features' covariance; None takes the
            one of :data:`STRENGTHS` that has the least error on samples left out.
        head: The name of the linear layer; by default the last one that the forward pass calls.
        num_classes: How many classes there are; by default one more than the largest label.
        max_batches: Read at most this many batches.

    Returns:
        The name of the layer, the number of samples, and the error on samples that are left out.

    Raises:
        ParameterError: No linear layer is called, the last one does not have an output per class or reads more than
            one feature vector per sample without averaging what it makes of them, labels are missing, features are not
            finite, or the system is singular. The model is unchanged.
        UnknownNameError: The model has no linear layer named ``head``.
    """
    if regularization is not None and regularization < 0:
        raise ParameterError(f"regularization must not be negative, got {regularization}.")
    expected_shapes(model)  # Refuses lazy modules.
    linears: dict[str, Head] = {name: module for name, module in model.named_modules() if _is_linear(module)}
    if head is not None and head not in linears:
        raise UnknownNameError("linear layer", head, linears)
    watched = linears if head is None else {head: linears[head]}
    last_call: list[tuple[str, Tensor, Tensor]] = []
    logits: list[Any] = []
    hooks = [
        module.register_forward_hook(
            lambda _, arguments, output, name=name: last_call.__setitem__(slice(None), [(name, arguments[0], output)])
        )
        for name, module in watched.items()
    ]
    hooks.append(model.register_forward_hook(lambda _, arguments, output: logits.__setitem__(slice(None), [output])))
    moments: _Moments | None = None
    largest_label = -1
    fitted = head
    try:
        with evaluation_mode(model):
            for batch in islice(batches, max_batches):
                labels = labels_of(batch)
                last_call.clear()
                samples = run_on_batch(model, batch)
                if not last_call:
                    raise ParameterError(
                        f"The forward pass of {type(model).__name__} does not call "
                        + (
                            f"the linear layer '{head}'."
                            if head
                            else "any nn.Linear or convolution of a single pixel that could be solved."
                        )
                    )
                name, features, output = last_call.pop()
                features = _averaged(linears[name], features, output, logits.pop())
                if fitted not in (None, name):
                    raise ParameterError(
                        f"The last linear layer changes from batch to batch: '{fitted}', then '{name}'. "
                        "Name the layer to fit by `head=`."
                    )
                fitted = name
                largest_label = max(largest_label, _check_batch(name, linears[name], features, labels, samples))
                features = features.to(device=_device_with_float64(features), dtype=torch.float64)
                targets = F.one_hot(labels.to(features.device), _outputs(linears[name])).to(features)
                moments = moments or _Moments(features, _outputs(linears[name]))
                moments.add(features, targets)
    finally:
        for hook in hooks:
            hook.remove()
    if moments is None or fitted is None:
        raise ParameterError("There are no batches to fit the head on. Pass at least one.")
    layer = linears[fitted]
    classes = num_classes if num_classes is not None else largest_label + 1
    if _outputs(layer) != classes:
        raise ParameterError(
            f"The linear layer '{fitted}' has {_outputs(layer)} outputs, but there are {classes} classes. Name the "
            "layer with an output per class by `head=`, or give `num_classes=` if the data lacks some."
        )
    if "weight" not in layer._parameters or (layer.bias is not None and "bias" not in layer._parameters):
        raise ParameterError(f"The linear layer '{fitted}' is reparametrised. Remove its parametrisation first.")
    solution = _solve(moments, regularization, with_intercept=layer.bias is not None)
    with torch.no_grad():
        layer.weight.copy_(solution.weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(solution.bias)
    return RidgeHead(fitted, moments.samples, solution.regularization, solution.error, solution.accuracy)


def _is_linear(module: nn.Module) -> TypeGuard[Head]:
    if isinstance(module, nn.Linear):
        return True
    if not isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return False
    padded = not isinstance(module.padding, str) and any(module.padding)
    return set(module.kernel_size) == set(module.stride) == {1} and module.groups == 1 and not padded


def _outputs(layer: Head) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _averaged(layer: Head, features: Tensor, output: Tensor, logits: Any) -> Tensor:
    """The features ``[samples, features]`` that logits are a linear map of; as they are where there are none such."""
    positions = tuple(range(1, output.dim() - 1) if isinstance(layer, nn.Linear) else range(2, output.dim()))
    if not positions or (logits := logits_of(logits)).shape[1:] != (_outputs(layer),):
        return features
    for values in (output, output.relu()):
        if torch.allclose(values.mean(positions), logits.to(values.dtype), rtol=1e-3, atol=1e-5):
            return features.mean(positions)
    return features


def _check_batch(name: str, layer: Head, features: Tensor, labels: Tensor, samples: int) -> int:
    """Check what one batch brought, and give its largest label."""
    if features.dim() != 2 or len(features) != samples or len(labels) != samples:
        raise ParameterError(
            f"The linear layer '{name}' reads {list(features.shape)} for {samples} samples with {len(labels)} labels. "
            "Expected one feature vector and one label per sample; name another layer by `head=`."
        )
    if not torch.isfinite(features).all():
        raise ParameterError(f"The features that '{name}' reads are not finite: the parameters before it blow up.")
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= _outputs(layer):
        raise ParameterError(
            f"The linear layer '{name}' has {_outputs(layer)} outputs, but labels run from {smallest} to {largest}. "
            "Name the layer with an output per class by `head=`."
        )
    return largest


class _Solution(NamedTuple):
    weight: Tensor  # [classes, features]
    bias: Tensor  # [classes]
    regularization: float
    error: float
    accuracy: float


def _solve(moments: _Moments, regularization: float | None, with_intercept: bool) -> _Solution:
    """Solve the normal equations, for each strength in question, and take the one that is best on samples left out."""
    gram, cross = moments.centred() if with_intercept else moments.raw()
    feature_mean = moments.shift + moments.feature_sum / moments.samples
    target_mean = moments.target_sum / moments.samples
    mean_eigenvalue = gram.diagonal().mean()
    features = torch.cat([features for features, _ in moments.kept]).to(gram)
    targets = torch.cat([targets for _, targets in moments.kept])
    # In the terms of the equations: centred where there is an intercept, and as the network gives them where not.
    features = features + moments.shift - (feature_mean if with_intercept else 0)
    offset = target_mean if with_intercept else torch.full_like(target_mean, 1 / len(target_mean))
    best: _Solution | None = None
    for strength in STRENGTHS if regularization is None else (regularization,):
        if mean_eigenvalue > 0:
            ridge = gram.clone()
            ridge.diagonal().add_(strength * mean_eigenvalue)
            factor, failed = torch.linalg.cholesky_ex(ridge)
            if failed:
                if regularization is None and strength != STRENGTHS[-1]:
                    continue
                raise ParameterError(
                    f"The features are linearly dependent and regularization={strength} is too small to tell them "
                    "apart. Raise it."
                )
            weight = torch.cholesky_solve(cross, factor).T
            leverage = torch.linalg.solve_triangular(factor, features.T, upper=False).square().sum(0)
        else:  # Constant features say nothing: the best head predicts how frequent each class is.
            weight, leverage = torch.zeros_like(cross).T, features.new_zeros(len(features))
        leverage = leverage + with_intercept / moments.samples
        residual = (targets - offset - features @ weight.T) / (1 - leverage).clamp(min=1e-9)[:, None]
        error = residual.square().mean().item() if moments.samples > 1 else math.nan
        right = (targets - residual).argmax(1) == targets.argmax(1)
        if best is None or error < best.error:
            bias = target_mean - weight @ feature_mean
            best = _Solution(weight, bias, strength, error, right.double().mean().item())
    assert best is not None
    return best


def _device_with_float64(tensor: Tensor) -> torch.device:
    return torch.device("cpu") if tensor.device.type == "mps" else tensor.device
