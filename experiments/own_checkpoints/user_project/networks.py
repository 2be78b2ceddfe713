"""The network of a researcher who knows nothing of hypergen: plain PyTorch."""

from torch import nn


class DigitNet(nn.Module):
    """Three convolutions with batch norms."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        """Logits of images [batch, 1, 8, 8]."""
        return self.head(self.features(x).mean((2, 3)))
