"""Networks written from the descriptions of tutorials and textbooks, each as its page has it, for small grey images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def lenet5(size: int = 8) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998): tanh, average pooling, three linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * (size // 4) ** 2, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, 10),
    )


def d2l_lenet(size: int = 8) -> nn.Module:
    """LeNet of "Dive into Deep Learning", 7.6: sigmoids."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=3, padding=1),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(16 * (size // 4) ** 2, 120),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )


class PyTorchCifarNet(nn.Module):
    """The network of PyTorch's "Training a Classifier", with 3×3 kernels on small images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 2)
        self.fc1 = nn.Linear(16, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class PyTorchMnistNet(nn.Module):
    """The network of PyTorch's MNIST example: log-probabilities, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(256, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to log-probabilities."""
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = self.dropout2(x)
        return F.log_softmax(self.fc2(x), dim=1)


class PyTorchQuickstartNet(nn.Module):
    """The network of PyTorch's quickstart: a perceptron of two hidden layers of 512."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(size * size, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.linear_relu_stack(self.flatten(x))


def pytorch_nn_tutorial() -> nn.Module:
    """The CNN of PyTorch's "What is torch.nn really?": three strided convolutions, no linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 10, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def keras_mnist_convnet() -> nn.Module:
    """Keras' "Simple MNIST convnet"."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64, 10),
    )


def keras_cifar_cnn() -> nn.Module:
    """Keras' classic CIFAR-10 CNN: two stages of two convolutions, dropout behind each."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64, 512),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(512, 10),
    )


def all_convolutional() -> nn.Module:
    """All-CNN-C of "Striving for Simplicity" (Springenberg et al., 2015), with a third of its channels."""

    def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.ReLU()]

    return nn.Sequential(
        *conv(1, 32),
        *conv(32, 32),
        *conv(32, 32, stride=2),
        nn.Dropout(0.5),
        *conv(32, 64),
        *conv(64, 64),
        *conv(64, 64, stride=2),
        nn.Dropout(0.5),
        *conv(64, 64),
        *conv(64, 64, 1),
        *conv(64, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def d2l_alexnet() -> nn.Module:
    """AlexNet of "Dive into Deep Learning", 8.1, with an eighth of its channels and a stem for small images."""
    return nn.Sequential(
        nn.Conv2d(1, 12, kernel_size=3, stride=1, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(12, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(32, 48, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 48, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def d2l_vgg() -> nn.Module:
    """VGG-11 of "Dive into Deep Learning", 8.2, with a quarter of its channels and three stages."""
    layers: list[nn.Module] = []
    inputs = 1
    for count, outputs in ((1, 16), (1, 32), (2, 64)):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    head = [nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.Linear(128, 10))


def d2l_nin() -> nn.Module:
    """Network in Network of "Dive into Deep Learning", 8.3."""

    def block(inputs: int, outputs: int, kernel: int, padding: int) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(outputs, outputs, kernel_size=1), nn.ReLU()]
        return layers

    return nn.Sequential(
        *block(1, 24, 5, 2),
        nn.MaxPool2d(3, stride=2),
        *block(24, 48, 3, 1),
        nn.Dropout(0.5),
        *block(48, 10, 3, 1),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


class D2LResidual(nn.Module):
    """The residual block of "Dive into Deep Learning", 8.6."""

    def __init__(self, inputs: int, outputs: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, stride=strides)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(inputs, outputs, kernel_size=1, stride=strides) if use_1x1conv else None
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to its input."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.conv3 is None else self.conv3(x)))


def d2l_resnet() -> nn.Module:
    """ResNet-18 of "Dive into Deep Learning", 8.6, with a quarter of its channels and three stages."""
    stem = [nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    body = [D2LResidual(16, 16), D2LResidual(16, 16), D2LResidual(16, 32, True, 2), D2LResidual(32, 32)]
    body += [D2LResidual(32, 64, True, 2), D2LResidual(64, 64)]
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(64, 10))


class RowLSTM(nn.Module):
    """The widespread "LSTM on MNIST rows": two layers of 128 units, the last state read."""

    def __init__(self, size: int = 8, hidden: int = 128) -> None:
        super().__init__()
        self.hidden = hidden
        self.lstm = nn.LSTM(size, hidden, 2, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = x.reshape(-1, x.shape[-2], x.shape[-1])
        h0 = torch.zeros(2, x.size(0), self.hidden, device=x.device)
        c0 = torch.zeros(2, x.size(0), self.hidden, device=x.device)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :])


class KerasTransformer(nn.Module):
    """Keras' "Image classification with Vision Transformer": patches, `nn.MultiheadAttention`, a flattened head."""

    def __init__(self, size: int = 8, patch: int = 2, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        tokens = (size // patch) ** 2
        self.patch = patch
        self.projection = nn.Linear(patch * patch, width)
        self.position_embedding = nn.Embedding(tokens, width)
        self.norm1 = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(layers))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True) for _ in range(layers)
        )
        self.norm2 = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(layers))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Dropout(0.1), nn.Linear(128, width), nn.GELU())
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.Linear(tokens * width, 256), nn.GELU(), nn.Dropout(0.5), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        x = self.projection(x) + self.position_embedding(torch.arange(x.shape[1], device=x.device))
        for norm1, attention, norm2, mlp in zip(self.norm1, self.attention, self.norm2, self.mlp, strict=True):
            x1 = norm1(x)
            x2 = attention(x1, x1, x1)[0] + x
            x = mlp(norm2(x2)) + x2
        return self.head(torch.flatten(self.norm(x), 1))


class SinusoidalEncoding(nn.Module):
    """The positional encoding of PyTorch's language-model tutorial."""

    pe: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        position = torch.arange(length).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        pe = torch.zeros(length, 1, width)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        """Add the encoding to ``[length, batch, width]``."""
        return x + self.pe[: x.size(0)]


class PyTorchTransformer(nn.Module):
    """The encoder of PyTorch's tutorial "nn.Transformer" on rows of an image, its sequence first, averaged."""

    def __init__(self, size: int = 8, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.encoder = nn.Linear(size, width)
        self.pos_encoder = SinusoidalEncoding(width, size)
        layer = nn.TransformerEncoderLayer(width, 4, 128, 0.2)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.encoder(x.squeeze(1).transpose(0, 1)) * math.sqrt(self.width)
        return self.decoder(self.transformer_encoder(self.pos_encoder(x)).mean(0))


class UvATransformer(nn.Module):
    """The vision transformer of the UvA deep learning course, tutorial 15: pre-norm blocks, sequence first."""

    class Block(nn.Module):
        """Attention and feed-forward."""

        def __init__(self, width: int, hidden: int, heads: int) -> None:
            super().__init__()
            self.layer_norm_1, self.layer_norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, heads)
            self.linear = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width), nn.Dropout(0.1)
            )

        def forward(self, x: Tensor) -> Tensor:
            """Map ``[tokens, batch, width]``."""
            inp_x = self.layer_norm_1(x)
            x = x + self.attn(inp_x, inp_x, inp_x)[0]
            return x + self.linear(self.layer_norm_2(x))

    def __init__(self, size: int = 8, patch: int = 2, width: int = 64, hidden: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.patch = patch
        self.input_layer = nn.Linear(patch * patch, width)
        self.transformer = nn.Sequential(*(UvATransformer.Block(width, hidden, 4) for _ in range(layers)))
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height // self.patch, self.patch, width // self.patch, self.patch)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2, 4)
        x = self.input_layer(x)
        x = torch.cat([self.cls_token.repeat(batch, 1, 1), x], dim=1) + self.pos_embedding
        return self.mlp_head(self.transformer(x.transpose(0, 1))[0])


class XResNet(nn.Module):
    """fastai's xresnet (Bag of Tricks, He et al., 2019), a quarter as wide."""

    class Block(nn.Module):
        """Two convolutions beside an averaged 1×1 convolution."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.convs = nn.Sequential(*_conv_layer(inputs, outputs, stride), *_conv_layer(outputs, outputs, act=False))
            path: list[nn.Module] = [] if stride == 1 else [nn.AvgPool2d(2, stride, ceil_mode=True)]
            path += [] if inputs == outputs else _conv_layer(inputs, outputs, kernel=1, act=False)
            self.idpath = nn.Sequential(*path)

        def forward(self, x: Tensor) -> Tensor:
            """Add both paths."""
            return F.mish(self.convs(x) + self.idpath(x))

    def __init__(self) -> None:
        super().__init__()
        stem = [*_conv_layer(1, 8), *_conv_layer(8, 8), *_conv_layer(8, 16)]
        blocks = [XResNet.Block(16, 16, 1), XResNet.Block(16, 32, 2), XResNet.Block(32, 64, 2)]
        self.body = nn.Sequential(*stem, *blocks)
        self.head = nn.Sequential(nn.BatchNorm1d(128), nn.Dropout(0.25), nn.Linear(128, 64, bias=False))
        self.last = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.body(x)
        x = torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1).flatten(1)
        return self.last(self.head(x))


def _conv_layer(inputs: int, outputs: int, stride: int = 1, kernel: int = 3, act: bool = True) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([nn.Mish()] if act else [])]
