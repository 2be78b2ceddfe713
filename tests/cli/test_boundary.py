import errno
import io
import sys

import pytest

from hypergen.cli.boundary import CLOSED_PIPE, FAILED, INTERRUPTED, error_boundary, user_message
from hypergen.cli.training.check_config import check_config
from hypergen.errors import CheckpointError, HypergenError, UnknownNameError
from hypergen.functional.arguments import check_numbers


def leave(error, **options):
    with pytest.raises(SystemExit) as left, error_boundary(**options):
        raise error
    return left.value.code


def test_errors_that_a_user_can_mend_are_one_message(capsys):
    assert leave(CheckpointError("no such file")) == FAILED
    assert leave(FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pt"), exit_code=2) == 2
    assert leave(OSError(errno.ENOSPC, "No space left on device")) == FAILED
    assert leave(MemoryError("1 TB")) == FAILED
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "no such file",
        "'a.pt' cannot be used: No such file or directory. Check the path, or make the folder before.",
        "A file cannot be used: No space left on device. Make room, or name a folder on another disk.",
        "There is not enough memory: 1 TB. Choose a smaller network or batch, or another device.",
    ]


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), error_boundary():
        _ = 1 / 0
    with pytest.raises(ValueError), error_boundary():
        raise ValueError("of this test, not of hypergen")


def test_errors_raised_on_purpose_are_told_from_operations_that_failed():
    with pytest.raises(ValueError) as out_of_range:
        check_numbers("Training", low=1, steps=0)
    assert user_message(out_of_range.value) == "Training(steps=0): expected at least 1."
    with pytest.raises(TypeError) as failed:
        check_numbers("Training", low="a", steps=1)  # fails inside hypergen without a `raise`
    assert user_message(failed.value) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "at least 1"), (True, "a whole number, not a bool"), (1.5, "a whole number"), ("3", "not a str")],
)
def test_check_numbers(value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        check_numbers("Training", low=1, whole=True, steps=value)
    check_numbers("Training", low=1, whole=True, steps=3, warmup=None)


def test_not_a_number_is_out_of_every_range():
    with pytest.raises(ValueError, match="from 0 to 1"):
        check_numbers("Training", low=0, high=1, share=float("nan"))


def test_interruptions_and_closed_pipes_leave_quietly(capsys):
    assert leave(KeyboardInterrupt(), interrupted=lambda error: "stopped") == INTERRUPTED
    assert leave(BrokenPipeError()) == CLOSED_PIPE
    assert capsys.readouterr().err == "stopped\n"


def test_a_message_that_cannot_be_made_does_not_hide_the_error(capsys):
    class Unspeakable(HypergenError):
        def __str__(self):
            raise RuntimeError("no")

    assert leave(Unspeakable()) == FAILED
    assert capsys.readouterr().err == "Unspeakable (its message cannot be shown)\n"
    assert str(UnknownNameError("head", 5, ["ridge"])) == "Unknown head 5. Known: 'ridge'."


def test_messages_neither_steer_terminals_nor_flood_them(capsys):
    leave(CheckpointError("\x1b]0;title\x07 name"))
    leave(CheckpointError("a" * 100_000))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "\\x1b]0;title\\x07 name"
    assert len(second) < 5_000 and second.endswith("(100,000 characters)")


def test_terminals_of_another_encoding(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with error_boundary():
        print("loss → 0")
    assert raw.getvalue() == b"loss ? 0\n"


def test_check_config_names_each_value_of_another_type():
    config = {
        "training": {"_target_": "hypergen.generators.ghn.training.GraphHypernetworkTraining", "steps": "abc"},
        "data": {"_target_": "hypergen.data.text.TextDataModule", "path": None, "context": 1.5, "seed": True},
    }
    with pytest.raises(HypergenError) as error:
        check_config(config)
    assert str(error.value).splitlines() == [
        "training.steps is 'abc': expected int, not a str.",
        "data.context is 1.5: expected int, not a float.",
        "data.seed is True: expected int, not a bool.",
    ]
    config["training"]["steps"], config["data"]["context"], config["data"]["seed"] = 0, 8, 0
    with pytest.raises(HypergenError, match=r"training.steps is 0: expected a value from 1 to"):
        check_config(config)
    config["training"]["steps"], config["data"]["context"], config["data"]["seed"] = 5, 8, 0
    check_config(config)


def test_generators_check_types_and_ranges_before_anything_is_allocated():
    from hypergen.generators import GraphHypernetwork

    for arguments, message in (
        ({"hidden": -1}, r"GraphHypernetwork\(hidden=-1\): expected a value from 1"),
        ({"hidden": "a"}, "expected int, not a str"),
        ({"layers": 10**9}, "expected a value from 0 to 10,000"),
        ({"hidden": float("nan")}, "finite number"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            GraphHypernetwork(**arguments)


def test_sizes_in_a_file_are_compared_with_its_tensors_before_memory_is_taken(tmp_path):
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    from hypergen.generators import load_generator
    from hypergen.generators.checkpoint import CONFIG, WEIGHTS

    saved = load_generator("digits-ghn").save_pretrained(tmp_path / "generator")
    with safe_open(saved / WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads((saved / CONFIG).read_text())
    config["arguments"]["hidden"] = 2**20  # whose matrices would take terabytes
    (saved / CONFIG).write_text(json.dumps(config))
    save_file(tensors, saved / WEIGHTS, {"hypergen": json.dumps(config), "format": "pt"})
    with pytest.raises(CheckpointError, match="of another shape"):
        load_generator(saved)


def test_commands_ask_before_they_replace_what_is_there(tmp_path, capsys):
    from hypergen.cli.arguments import check_writable

    file = tmp_path / "a.safetensors"
    check_writable(file, None, tmp_path / "new", overwrite=False)
    file.write_text("mine")
    with pytest.raises(HypergenError, match="already there; pass --overwrite"):
        check_writable(file, overwrite=False)
    with pytest.raises(HypergenError, match=r"does not end in \.svg"):
        check_writable(file, overwrite=True, suffixes=(".svg",))
    with pytest.raises(HypergenError, match="is a file. Name another folder"):
        check_writable(file / "out.svg", overwrite=True)
    check_writable(file, overwrite=True)


def test_parameters_beyond_the_memory_are_refused_with_what_to_do():
    import torch

    import hypergen

    with torch.device("meta"):
        network = torch.nn.Linear(10**6, 10**6)
    with pytest.raises(HypergenError, match="predict_to_disk"):
        hypergen.predict_params(network)


def test_every_experiment_fits_the_types_and_ranges():
    from hydra import compose, initialize_config_dir

    from hypergen.cli.train import CONFIGURATION

    with initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        for file in sorted((CONFIGURATION / "experiment").glob("*.yaml")):
            check_config(compose("train", [f"experiment={file.stem}", "output=x"]))
