"""Scikit-learn's digits: 1,000 training, 397 validation and 400 test images."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def parts():
    """The three data sets."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return [TensorDataset(x[part], y[part]) for part in order.split([1000, 397, 400])]


def loaders():
    """Their loaders."""
    return [DataLoader(part, batch_size=64, shuffle=number == 0) for number, part in enumerate(parts())]
