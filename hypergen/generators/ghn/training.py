"""Training a graph hypernetwork: the networks whose parameters it predicts are trained through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hypergen.architectures.cost import without_initialisation
from hypergen.data import ImageDataModule, TextDataModule
from hypergen.data.augmentation import jittered
from hypergen.data.multi_task import as_images
from hypergen.data.task import LANGUAGE_MODELLING, Task
from hypergen.errors import GeneratorError
from hypergen.functional.lightning import can_fuse
from hypergen.functional.moving_average import MovingAverage
from hypergen.generators.ghn.features import GraphFeatures, batch_graphs
from hypergen.generators.ghn.meta_batches import MetaBatch, MetaBatchDataModule, TracedArchitecture
from hypergen.generators.ghn.model import GraphHypernetwork
from hypergen.generators.ghn.readout_loss import HeadInputs, left_out_error

_PADDING, _FEW_NODES = 1.3, 16  # Graphs are padded to less than this many times their nodes, and these besides.


class GraphHypernetworkTraining(pl.LightningModule):
    """Minimises the mean loss of networks at their predicted parameters over a distribution of architectures.

    Each step predicts the parameters of a meta-batch of networks in one pass, runs every network on samples of its
    own through :func:`torch.func.functional_call`, and sends the gradients with respect to its parameters back into
    the generator. A network whose loss lies above that of guessing counts less, by the ratio of the two; one whose
    loss or gradient is not finite counts nothing and is logged as skipped.

    Args:
        generator: The graph hypernetwork.
        data: What targets are trained on; its ``task`` gives the loss.
        steps: Length of the learning rate schedule: linear warm-up, then cosine to a fiftieth.
        learning_rate: Peak learning rate of AdamW for the encoder and the heads.
        table_learning_rate: The same for the channel tables, whose entries are of unit size.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Weight decay of the encoder and the heads.
        max_gradient_norm: What the gradient of each network with respect to its parameters is clipped to.
        image_noise: Standard deviation of noise added to the (standardised) training images. Long runs pass over the
            images many thousand times and would otherwise learn them by heart.
        through_readout: Whether the loss is that of a ridge readout of a network's features on samples that are left
            out, rather than that of the head that is predicted: for bodies (``readout="ridge"``).
        augment: Whether all images of a network are shifted, turned negative and changed in contrast and colour by one
            draw a step, so that what is learned is less bound to the data.
        average_decay: Decay of the moving average of the generator, which is what is kept in the end; 0 for none.

    Raises:
        ValueError: Noise is asked for on tokens.
    """

    def __init__(
        self,
        generator: GraphHypernetwork,
        data: ImageDataModule | TextDataModule,
        steps: int,
        learning_rate: float = 2e-3,
        table_learning_rate: float = 3e-2,
        warmup_steps: int = 100,
        weight_decay: float = 0.0,
        max_gradient_norm: float = 1.0,
        image_noise: float = 0.0,
        augment: bool = False,
        through_readout: bool = False,
        average_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if (image_noise or augment) and data.task == LANGUAGE_MODELLING:
            raise ValueError(
                f"image_noise={image_noise} and augment={augment} are for images; leave them out for tokens"
            )
        self.generator, self.data = generator, data
        self.steps, self.warmup_steps = steps, warmup_steps
        self.learning_rate, self.table_learning_rate = learning_rate, table_learning_rate
        self.weight_decay, self.max_gradient_norm = weight_decay, max_gradient_norm
        self.image_noise, self.augment, self.through_readout = image_noise, augment, through_readout
        self.average_decay = average_decay
        self.skipped = self.counted = 0
        self._targets: dict[int, _Target] = {}

    def configure_callbacks(self) -> list[pl.Callback]:
        """The moving average, if there is to be one."""
        return [MovingAverage(list(self.generator.parameters()), self.average_decay)] if self.average_decay else []

    def setup(self, stage: str) -> None:
        """Tell the data module how the generator reads graphs, before its loaders are made."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, MetaBatchDataModule):
            data.graphs, data.channel_identity = self.generator.graphs, self.generator.channel_identity

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Graphs are padded and joined on the CPU: what is moved is the joined batch, in the step."""
        return batch

    def training_step(self, batch: MetaBatch, batch_idx: int) -> Tensor:
        """One meta-batch; returns the mean loss of its networks."""
        for number, traced in batch.traced.items():
            self._targets[number] = _Target(traced, self.device, self.through_readout)
        targets = [self._targets[number] for number in batch.numbers]
        predicted = self._predict([target.features for target in targets])
        losses, metrics, gradients = [], [], []
        for target, flat, chosen in zip(targets, predicted, torch.from_numpy(batch.samples), strict=True):
            inputs, labels = self._samples("train", chosen)
            inputs = self._augmented(target.fit(inputs), batch.step, chosen)
            loss, metric, gradient = target.gradient(flat.detach(), inputs, labels, self.data.task)
            losses.append(loss)
            metrics.append(metric)
            gradients.append(gradient)
        finite = [math.isfinite(loss) for loss in losses]
        self.skipped += len(losses) - sum(finite)
        self.counted += sum(finite)
        loss = sum(loss for loss, ok in zip(losses, finite, strict=True) if ok) / max(sum(finite), 1)
        # Nothing was learnt from a step without a finite loss, which must not look like the best of all.
        shown: dict[str, Any] = {
            "train/loss": loss if any(finite) else math.nan,
            f"train/{self.data.task.metric}": sum(metrics) / len(targets),
        }
        self.log_dict(shown, prog_bar=True, batch_size=len(targets), sync_dist=True)
        self.log("train/skipped", float(self.skipped), prog_bar=True, reduce_fx="sum", sync_dist=True)
        weighted = [self._clipped(gradient) / len(targets) for gradient in gradients]
        return _WithGradients.apply(torch.tensor(loss, device=self.device), weighted, *predicted)

    def on_train_end(self) -> None:
        """Keep which graphs training showed; complain where no network had a finite loss, so that nothing was learnt.

        Raises:
            GeneratorError: There was none in any process.
        """
        learnt = self.counted > 0 or self.skipped == 0
        if not self.trainer.strategy.reduce_boolean_decision(learnt, all=False):
            raise GeneratorError(
                f"None of the {self.skipped:,} networks that were trained on had a finite loss or gradient, so nothing "
                "was learnt. Check the data for NaN and infinite values, or lower training.learning_rate."
            )
        if self.generator.training_graphs is not None and self._targets:
            self.generator.training_graphs.cover([target.description for target in self._targets.values()])

    def _predict(self, graphs: Sequence[GraphFeatures]) -> list[Tensor]:
        """The flat parameters of each graph, predicted together with those of about its size: all are padded alike."""
        order = sorted(range(len(graphs)), key=lambda i: len(graphs[i].operations))
        groups: list[list[int]] = []
        for i in order:
            if groups and len(graphs[i].operations) <= _PADDING * len(graphs[groups[-1][0]].operations) + _FEW_NODES:
                groups[-1].append(i)
            else:
                groups.append([i])
        predicted: dict[int, Tensor] = {}
        for group in groups:
            batch = batch_graphs([graphs[i] for i in group], self.device)
            predicted.update(zip(group, self.generator(batch), strict=True))
        return [predicted[i] for i in range(len(graphs))]

    def _augmented(self, images: Tensor, step: int, chosen: Tensor) -> Tensor:
        if not self.image_noise and not self.augment:
            return images
        # The draws belong to the step and the images, so that a resumed run sees the same.
        generator = torch.Generator().manual_seed(step * 1_000_003 + int(chosen[0]))
        if self.augment:
            images = jittered(images, generator)
        if not self.image_noise:
            return images
        return images + self.image_noise * torch.randn(images.shape, generator=generator).to(images)

    def _clipped(self, gradient: Tensor) -> Tensor:
        return gradient * (self.max_gradient_norm / gradient.norm().clamp(min=self.max_gradient_norm))

    def validation_step(self, batch: TracedArchitecture, batch_idx: int) -> None:
        """The metric of one unseen network on the validation samples, with the statistics of its own batch."""
        target = _Target(batch, self.device, self.through_readout)
        (flat,) = self.generator(batch_graphs([batch.features], self.device))
        inputs, labels = self._samples("validation")
        task, parts = self.data.task, self.data.parts("validation")
        metric = 0.0
        for start, end in parts:
            images, own = inputs[start:end], labels[start:end]
            if target.head_inputs is not None:  # of ten classes, which have some samples each
                kept = own < own.min() + 10
                images, own = images[kept], own[kept]
            logits = target.logits(flat, target.fit(images))
            if target.head_inputs is None:
                metric += task.measure(*task.own(logits, own)) / len(parts)
            else:
                metric += left_out_error(target.head_inputs.take(logits), own)[1] / len(parts)
        self.log(f"val/{task.metric}", metric, prog_bar=True, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with two learning rates, warm-up and cosine decay."""
        tables = {id(p) for p in self.generator.tables()}
        rest = [p for p in self.generator.parameters() if id(p) not in tables]
        optimizer = torch.optim.AdamW(
            [
                {"params": rest, "lr": self.learning_rate, "weight_decay": self.weight_decay},
                {"params": self.generator.tables(), "lr": self.table_learning_rate, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.99),
            fused=can_fuse(self),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(step / self.steps, 1)))
        return min(1.0, (step + 1) / self.warmup_steps) * (0.02 + 0.98 * cosine)

    def _samples(self, split: str, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        inputs, labels = self.data.tensors(split)
        if chosen is not None:
            inputs, labels = inputs[chosen], labels[chosen]
        return inputs.to(self.device), labels.to(self.device)


class _Target:
    """One network, without values of its own parameters, with buffers to run it."""

    def __init__(self, traced: TracedArchitecture, device: torch.device, through_readout: bool) -> None:
        with without_initialisation():
            network = traced.architecture.build()
        # Training mode uses the statistics of the batch; the running ones are written and never read. Other buffers
        # are tables of positions, masks and indices. Everything else, dropout above all, is in evaluation mode.
        network.eval()
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        self.features, self.description = traced.features, traced.description
        self.shape = traced.architecture.example_inputs().shape[1:]
        names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
        self.tied = len(names) != len(list(network.parameters()))
        self.buffers = {name: buffer.to(device) for name, buffer in network.named_buffers()}
        for parameter in network.parameters():  # not moved to the meta device, which would untie tied ones
            parameter.data = parameter.data.new_empty(0)
        self.module = network
        self.head_inputs = HeadInputs(network) if through_readout else None

    def fit(self, inputs: Tensor) -> Tensor:
        """Images in the shape that the network takes; tokens as they are."""
        return as_images(inputs, self.shape[0], self.shape[-1]) if len(self.shape) == 3 else inputs

    def logits(self, flat: Tensor, inputs: Tensor) -> Tensor:
        parameters = self.features.layout.unflatten(flat)
        values = {**parameters, **self.buffers}
        # Looking for tied weights at each call takes a tenth of it.
        return torch.func.functional_call(self.module, values, (inputs,), tie_weights=self.tied)

    def gradient(self, flat: Tensor, inputs: Tensor, labels: Tensor, task: Task) -> tuple[float, float, Tensor]:
        """Loss, metric, and the gradient of the loss with respect to the parameters, weighted by the loss."""
        flat = flat.requires_grad_()
        logits = self.logits(flat, inputs)
        if self.head_inputs is not None:
            loss, metric = left_out_error(self.head_inputs.take(logits), labels)
            guessing = 1.0
        else:
            logits, labels = task.own(logits, labels)
            loss, metric = task.loss(logits, labels), task.measure(logits.detach(), labels)
            guessing = math.log(logits.shape[-1])
        value = loss.item()
        if not math.isfinite(value):
            return value, 0.0, torch.zeros_like(flat)
        (gradient,) = torch.autograd.grad(loss, flat)
        if not torch.isfinite(gradient).all():
            return math.nan, 0.0, torch.zeros_like(flat)
        return value, metric, gradient / max(value / guessing, 1.0)


class _WithGradients(torch.autograd.Function):
    """A loss whose gradients with respect to the predicted parameters are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor], *predicted: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, None, *(grad * gradient for gradient in ctx.gradients)
