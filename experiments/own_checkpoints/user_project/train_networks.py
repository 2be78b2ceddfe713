"""Leaves 200 .pth files: `python train_networks.py FOLDER [NUMBER] [network]`. Nothing here knows of hypergen."""

import importlib
import random
import sys
from pathlib import Path

import torch
from digits import loaders
from torch.nn import functional as F


def train(make, seed, training, validation, folder):
    """One network, of a seed, a learning rate and a number of epochs of its own."""
    torch.manual_seed(seed)
    drawn = random.Random(seed)
    rate, epochs = 10 ** drawn.uniform(-3.3, -2), drawn.choice([1, 2, 3, 4, 6, 8, 12, 16])
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(epochs):
        net.train()
        for x, y in training:
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        hits = [(net(x).argmax(1) == y).float() for x, y in validation]
    accuracy = torch.cat(hits).mean().item()
    name = f"seed{seed:03d}_lr{rate:.5f}_epoch{epochs}_valacc{accuracy:.4f}.pth"
    torch.save({"model": net.state_dict(), "epoch": epochs}, folder / name)


def main():
    """Train them one after another."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    name = sys.argv[3] if len(sys.argv) > 3 else "DigitNet"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    training, validation, _ = loaders()
    for seed in range(number):
        train(getattr(importlib.import_module("networks"), name), seed, training, validation, folder)


if __name__ == "__main__":
    main()
