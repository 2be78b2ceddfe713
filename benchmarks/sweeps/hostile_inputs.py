"""Inputs that hypergen cannot use, drawn at random: wrong arguments, spoilt files and zoos, command lines, options."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hypergen

_NUMBERS = (-1, 0, 10**9, 2**70, 1.5, float("nan"), float("inf"))
_BAD = (*_NUMBERS, "", "abc", "\x00\x1b[2J", None, True, [], [[]], {}, {"a": 1}, "9" * 5000)


class Refused(Exception):
    """What a command printed before it left with an error."""


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: Which part of hypergen it is for.
        what: The input in words.
        run: Hands it over; raises what comes out.
    """

    kind: str
    what: str
    run: Callable[[], Any]


class Payload:
    """Runs code when it is unpickled: makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the file for writing."""
        return open, (self.path, "w")


def api_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Wrong arguments of public functions, and networks that cannot be predicted."""
    networks: dict[str, Any] = {
        "linear": lambda: nn.Linear(4, 3),
        "conv": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        "empty": nn.Identity,
        "lazy": lambda: nn.LazyLinear(3),
        "complex": lambda: nn.Linear(3, 3, dtype=torch.complex64),
        "integers": lambda: nn.Embedding.from_pretrained(torch.ones(3, 3, dtype=torch.int64), freeze=True),
        "zero size": lambda: nn.Linear(0, 3),
        "failing": lambda: _Failing(),
        "a number": lambda: 5,
        "a class": lambda: nn.Linear,
        "a string": lambda: "resnet18",
        "none": lambda: None,
    }
    functions: dict[str, Callable[..., Any]] = {
        "predict_params": hypergen.predict_params,
        "initialize": hypergen.initialize,
        "trace": lambda model, **options: hypergen.trace(model, options.get("example_inputs")),
        "predict_to_disk": lambda model, **options: hypergen.predict_to_disk(
            model, options.pop("generator", "digits-ghn"), _fresh(folder), progress=False, **options
        ),
        "load_generator": lambda model, **options: hypergen.load_generator(options.get("generator", model)),
    }
    options: dict[str, Sequence[Any]] = {
        "example_inputs": (*_BAD, torch.zeros(2), torch.zeros(1, 4), torch.zeros(0, 4), torch.zeros(1, 3, 8, 8)),
        "generator": (*_BAD, "digits-gnh", "no/such", "../up", str(folder), "/"),
        "condition": _BAD,
        "head": _BAD,
        "scale": _BAD,
        "fallback": _BAD,
        "diversify": _BAD,
        "diversify_strength": _BAD,
        "calibrate": (*_BAD, [], [torch.zeros(1, 4)], [(torch.zeros(2, 4), torch.zeros(3))], [None], iter([])),
        "calibration_batches": _BAD,
        "dtype": (*_BAD, torch.int64, torch.float64),
        "max_shard_size": _BAD,
        "donor": (*_BAD, {}, {"weight": 3}, nn.Linear(4, 3), "no.pt", str(folder)),
    }
    of = {
        "predict_params": ("example_inputs", "generator", "condition"),
        "initialize": tuple(set(options) - {"dtype", "max_shard_size"}),
        "trace": ("example_inputs",),
        "predict_to_disk": ("example_inputs", "generator", "condition", "dtype", "max_shard_size"),
        "load_generator": ("generator",),
    }
    while True:
        function, network = rng.choice(list(functions)), rng.choice(list(networks))
        if rng.random() < 0.5:
            network = "linear"
        chosen = {}
        for name in rng.sample(sorted(of[function]), k=rng.randint(1, min(2, len(of[function])))):
            chosen[name] = rng.choice(options[name])
        yield Case(
            "api",
            f"{function}({network}, {_brief(chosen)})",
            lambda f=functions[function], n=networks[network], o=chosen: f(n(), **o),
        )


def constructor_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Wrong values of the arguments of every generator and of plans, data and spaces."""
    from hypergen.functional.arguments import annotations_of
    from hypergen.generators.registry import generator_class, registered_names

    known = {found: found.example().generator.config for found in map(generator_class, registered_names())}
    while True:
        found = rng.choice(list(known))
        name = rng.choice(sorted(annotations_of(found)))
        value = rng.choice(_BAD)
        arguments = {**known[found], name: value}
        yield Case("constructor", f"{found.__name__}({_brief({name: value})})", lambda c=found, a=arguments: c(**a))


def file_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Generators and checkpoints whose bytes, tensors or configuration were changed, and pickles with code in them."""
    from hypergen.cli.align import _read

    saved = hypergen.load_generator("digits-ghn").save_pretrained(folder / "generator")
    weights, config = (saved / "model.safetensors").read_bytes(), json.loads((saved / "config.json").read_text())
    state = folder / "state.pt"
    torch.save({"a.weight": torch.ones(3, 3), "step": 5}, state)
    plain = state.read_bytes()
    while True:
        place = _fresh(folder)
        place.mkdir()
        kind = rng.choice(("bytes", "config", "pickle", "payload", "other"))
        if kind in ("bytes", "config"):
            file = place / "model.safetensors"
            changed = dict(config, arguments=dict(config["arguments"]))
            if kind == "config":
                _change(rng, changed if rng.random() < 0.4 else changed["arguments"])
            text = json.dumps(changed) if rng.random() < 0.8 else "[" * 10**5
            file.write_bytes(_spoilt(rng, weights) if kind == "bytes" else _with_metadata(weights, text))
            (place / "config.json").write_text(text)
            yield _reading("file", f"generator, {kind}", place, lambda p=place: hypergen.load_generator(p), folder)
            continue
        file = place / rng.choice(("a.pt", "a.ckpt", "a.bin", "a.safetensors", "a.pth"))
        if kind == "pickle":
            file.write_bytes(_spoilt(rng, plain))
        elif kind == "payload":
            content = {"state_dict": {"a": torch.ones(2)}, "x": Payload(folder / "executed")}
            if rng.random() < 0.5:
                torch.save(content, file)
            else:
                file.write_bytes(pickle.dumps(content))
        else:
            starts = (
                b"",
                b"<!DOCTYPE html>",
                b"version https://git-lfs.github.com/spec/v1\n",
                b"PK\x03\x04",
                b"\x80\x02",
            )
            file.write_bytes(rng.choice(starts) + rng.randbytes(rng.choice((0, 1, 100))))
        reader = rng.choice((lambda f=file: _read(f, ""), lambda f=file: hypergen.load_generator(f)))
        yield _reading("file", f"{file.name}, {kind}", place, reader, folder)


def zoo_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Zoos whose files were changed or are gone, and entries that do not fit."""
    import shutil

    from hypergen.zoo import Zoo, ZooWriter
    from hypergen.zoo.layout import Layout

    network = nn.Linear(3, 2)
    good = folder / "zoo"
    layout = Layout.of(network.state_dict())
    with ZooWriter(good) as writer:
        for run in range(4):
            writer.add(network.state_dict(), layout=layout, run=f"run{run}", step=0, validation={"accuracy": 0.5})

    def read(path: Path) -> None:
        zoo = Zoo(path).verify()
        for number in range(len(zoo)):
            zoo.state_dict(number)

    def write(path: Path, arguments: dict[str, Any]) -> None:
        with ZooWriter(path) as writer:
            writer.add(**arguments)
        read(path)

    while True:
        place = _fresh(folder)
        shutil.copytree(good, place)
        if rng.random() < 0.4:
            arguments = {"state": network.state_dict(), "run": "new", "step": 1, "validation": {"accuracy": 0.1}}
            arguments |= {"layout": layout, "hyperparameters": {"lr": 0.1}, "task": "t", "split_run": "train"}
            name = rng.choice(sorted(arguments))
            value = rng.choice((*_BAD, {"weight": torch.ones(1)}, {"accuracy": [1]}, {"uid": 3, "sha256": "x"}))
            yield Case(
                "zoo", f"add({_brief({name: value})})", lambda p=place, a={**arguments, name: value}: write(p, a)
            )
            continue
        file = rng.choice(sorted(path for path in place.rglob("*") if path.is_file()))
        if rng.random() < 0.15:
            file.unlink()
        elif file.suffix == ".json" and rng.random() < 0.6:
            content = json.loads(file.read_text())
            _change(rng, content)
            file.write_text(json.dumps(content))
        else:
            file.write_bytes(_spoilt(rng, file.read_bytes()))
        yield _reading("zoo", f"{file.name} changed", place, lambda p=place: read(p), folder, changes=True)


def command_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Command lines with wrong options, names, shapes and paths."""
    from hypergen.cli.main import app

    there = folder / "there.safetensors"
    there.write_bytes(b"mine")
    models = ("torch.nn:Linear", "torch.nn:Identity", "timm:resnet999", "hf:no", "torchvision:", "no.such:thing",
              ":", "", "os:getcwd", "json:loads", "collections:OrderedDict", "timm:", "a:b:c", "x" * 3000)  # fmt: skip
    paths = (str(there), str(there / "below.safetensors"), "/proc/x.safetensors", "\x00", "", str(folder), "a.txt",
             str(folder / ("n" * 300)), "/dev/null")  # fmt: skip
    values = ("-1", "0", "nan", "1e999", "abc", "", "1,2,3", "1,3,8,8:int99", "é\x1b[2J", "999999999999999999999999")
    forms: tuple[tuple[str, ...], ...] = (
        ("predict", "M", "--out", "P"), ("predict", "M", "--out", "P", "--dtype", "V"),
        ("predict", "M", "--out", "P", "--input", "V"), ("predict", "M", "--out", "P", "--max-shard-size", "V"),
        ("graph", "M"), ("graph", "M", "--out", "P"), ("graph", "M", "--input", "V"),
        ("prune", "M", "--out", "P", "--ratio", "V"), ("prune", "M", "--out", "P", "--allocation", "V"),
        ("align", "P", "P", "--out", "P", "--model", "M"), ("align", "P", "P", "--out", "P"),
        ("initialize", "M", "--donor", "P", "--out", "P"), ("initialize", "M", "--donor", "M", "--out", "P"),
        ("zoo", "build", "P", "--networks", "V"), ("zoo", "build", "P", "--steps", "V"),
        ("zoo", "build", "P", "--learning-rate", "V"), ("zoo", "build", "P", "--hidden", "V", "--networks", "1"),
        ("zoo", "import", "P", "P"), ("zoo", "import", "P", "P", "--pattern", "V"), ("zoo", "show", "P"),
        ("zoo", "show", "P", "--out", "P"), ("zoo", "sample", "P", "P", "--out", "P"),
        ("evaluate", "--out", "P", "--generator", "V"), ("evaluate", "--out", "P", "--protocol", "V"),
        ("adapters", "inspect", "P"), ("V",), ("zoo", "V"), ("generators",), ("predict",), ("generators", "V"),
    )  # fmt: skip
    choices: dict[str, Sequence[str]] = {"M": models, "P": paths, "V": values}
    while True:
        line = [rng.choice(choices[word]) if word in choices else word for word in rng.choice(forms)]
        # Zoos are not built by cases that would train for minutes, nor generators evaluated.
        line += ["--steps", "1", "--save-every", "1"] if line[:2] == ["zoo", "build"] and "--steps" not in line else []
        yield Case("command", " ".join(word[:60] for word in line), lambda words=line: _in_command(app, words))


def hydra_cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Configurations with wrong values; checked, and their data, model and space made, as a run does at first."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from hypergen.cli.boundary import error_boundary
    from hypergen.cli.train import CONFIGURATION, check_config, instantiate

    GlobalHydra.instance().clear()
    initialize_config_dir(str(CONFIGURATION), version_base="1.3")
    plain = compose("train", ["task=graph_hypernetwork"], return_hydra_config=False)
    names = [name for name in _leaves(OmegaConf.to_container(plain, resolve=False)) if not name.endswith("_target_")]
    texts = ("-1", "0", "1.5", "abc", "nan", "inf", "null", "true", "[]", "{}", "1000000000", "''", "'${no}'", "[1,a]")

    def check(override: str) -> None:
        with error_boundary():
            config = compose("train", ["task=graph_hypernetwork", "output=x", override])
            check_config(config)
            data = instantiate(config.data)
            instantiate(config.space)
            model = instantiate(config.model)
            instantiate(config.training)(model, data)

    while True:
        name = rng.choice(names) if rng.random() < 0.9 else rng.choice(("no.such", "data.x", "generator", "task"))
        override = f"{name}={rng.choice(texts)}"
        yield Case("hydra", override, lambda o=override: _in_boundary(lambda: check(o)))


KINDS = {
    "api": api_cases,
    "constructor": constructor_cases,
    "file": file_cases,
    "zoo": zoo_cases,
    "command": command_cases,
    "hydra": hydra_cases,
}


class _Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x: Any) -> Any:
        raise KeyError("batch")


_numbers = iter(range(10**9))


def _fresh(folder: Path) -> Path:
    return folder / f"case{next(_numbers)}"


def _brief(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={str(value)[:40]!r}" for name, value in values.items())


def _spoilt(rng: random.Random, content: bytes) -> bytes:
    """Bytes cut off, flipped, put in or doubled; most changes at the start, where formats keep what they say."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 5, 50))):
        end = len(changed) if rng.random() < 0.3 else min(len(changed), 400)
        place = rng.randrange(max(end, 1))
        action = rng.randrange(4)
        if action == 0:
            del changed[place:]
        elif action == 1 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif action == 2:
            changed[place:place] = rng.randbytes(rng.choice((1, 8)))
        else:
            changed[place:place] = changed[place : place + 16]
        if not changed:
            break
    return bytes(changed)


def _change(rng: random.Random, node: Any) -> None:
    """Replace, remove or add a value somewhere in JSON."""
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(sorted(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.7:
            node = node[key]
            continue
        if rng.random() < 0.2:
            del node[key]
        else:
            node[key] = rng.choice(_BAD)
        return


def _with_metadata(weights: bytes, text: str) -> bytes:
    size = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + size])
    header["__metadata__"]["hypergen"] = text
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + weights[8 + size :]


def _digest(place: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(place.rglob("*")) if path.is_file()
    }


def _reading(kind: str, what: str, place: Path, read: Callable[[], Any], folder: Path, changes: bool = False) -> Case:
    """A case that reads files, which must not change by it; a zoo may heal its index."""

    def run() -> None:
        before = {} if changes else _digest(place)
        try:
            read()
        finally:
            if not changes and _digest(place) != before:
                raise Refused(f"LOST: {what} was changed by reading it") from None

    return Case(kind, what, run)


def _leaves(node: Any, place: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif place:
        yield place


def _in_command(app: Any, words: list[str]) -> None:
    _in_boundary(lambda: app(words))


def _in_boundary(run: Callable[[], Any]) -> None:
    """Call what leaves by SystemExit with a message on standard error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            run()
    except SystemExit as left:
        if left.code not in (0, None):
            raise Refused(said.getvalue().strip()) from None
