import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hypergen.cli.main import app
from hypergen.errors import HypergenError
from hypergen.zoo import Zoo, ZooWriter
from hypergen.zoo.pictures import write_pictures
from hypergen.zoo.statistics import zoo_statistics


def invoke(*arguments):
    return CliRunner().invoke(app, ["zoo", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    done = invoke("build", folder, "--networks", 6, "--hidden", "4", "--hidden", "5,3", "--steps", 4, "--save-every", 2)
    assert done.exit_code == 0, done.output
    assert "12 networks (12 trained now, 0 diverged), 36 checkpoints" in done.output
    return folder


def test_statistics_count_what_is_there(folder):
    about = zoo_statistics(Zoo(folder))
    assert (about["checkpoints"], about["runs"], about["tasks"], about["finite"]) == (36, 12, 0, 36)
    assert sorted(layout["parameters"] for layout in about["layouts"].values()) == [
        64 * 4 + 4 + 4 * 10 + 10,
        64 * 5 + 5 + 5 * 3 + 3 + 3 * 10 + 10,
    ]
    assert sum(about["splits"]["run"].values()) == 12 and about["bytes"] > 36 * 64 * 4 * 4
    values = Zoo(folder).last().column("test.accuracy")
    least, *_, greatest = about["columns"]["test.accuracy"][1]
    assert (least, greatest) == (min(values), max(values))


def test_a_zoo_is_shown(folder, tmp_path):
    done = invoke("show", folder, "--out", tmp_path, "--verify")
    assert done.exit_code == 0, done.output
    for expected in ("36 of 12 runs", "test accuracy", "learning_rate", "36 checkpoints are what was written"):
        assert expected in done.output
    for name in ("metric_over_step", "distances", "map"):
        pixels = np.asarray(Image.open(tmp_path / f"{name}.png").convert("L"))
        assert pixels.std() > 5  # Something is drawn.


def test_pictures_of_tasks_and_of_little(tmp_path):
    with ZooWriter(tmp_path / "zoo") as writer:
        for number in range(4):
            writer.add({"w": torch.randn(3)}, run=str(number), step=0, task="ab"[number % 2])
    zoo = Zoo(tmp_path / "zoo")
    # Without a metric and a second step, there is no curve to draw.
    names = [path.name for path in write_pictures(zoo, tmp_path / "out", file_format="svg")]
    assert names == ["distances.svg", "map.svg"] and "<svg" in (tmp_path / "out/map.svg").read_text()
    assert write_pictures(zoo.take([]), tmp_path / "out") == []
    with pytest.raises(HypergenError, match="no column 'accuracy'"):
        write_pictures(zoo, tmp_path, metric="accuracy")
    with pytest.raises(HypergenError, match="'gif' is no format"):
        write_pictures(zoo, tmp_path, file_format="gif")


def test_damage_is_shown(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = sorted((copy / "shards").iterdir())[0]
    shard.write_bytes(shard.read_bytes()[:-50])
    done = invoke("show", copy)
    assert done.exit_code == 2 and shard.name in done.output and "Traceback" not in done.output
    done = invoke("show", copy, "--skip-corrupt")
    assert done.exit_code == 0 and shard.name in done.output and "18 of 6 runs" in done.output


def test_import_on_the_command_line(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "in/run_3.pth")
    (tmp_path / "in/run_4.pth").write_bytes(b"no checkpoint")
    done = invoke("import", tmp_path / "in", tmp_path / "zoo", "--pattern", "{run}_{step:d}.pth")
    assert done.exit_code == 2 and "run_4.pth" in done.output
    done = invoke("import", tmp_path / "in", tmp_path / "zoo", "--pattern", "{run}_{step:d}.pth", "--skip-errors")
    assert (
        done.exit_code == 0
        and "run_4.pth" in done.output
        and "0 checkpoints of 0 layouts added, 1 were there" in (done.output)
    )
    assert Zoo(tmp_path / "zoo").column("uid") == ["run/3"]


def test_wrong_options_are_named(tmp_path):
    for arguments, message in (
        (["build", tmp_path / "z", "--steps", "a,b"], "--steps has 'a'"),
        (["build", tmp_path / "z", "--learning-rate", "2,1"], "the smaller first"),
        (["build", tmp_path / "z", "--engine", "rya"], "Did you mean 'ray'"),
        (["import", tmp_path, tmp_path / "z", "--kind", "lightnin"], "Did you mean 'lightning'"),
        (["import", tmp_path, tmp_path / "z"], "holds no file"),
        (["import", tmp_path, tmp_path / "z", "--kind", "model_zoos", "--key", "x"], "--key is not for"),
        (["show", tmp_path], "no zoo.json"),
    ):
        done = invoke(*arguments)
        assert done.exit_code == 2 and message in done.output, done.output
    assert not (tmp_path / "z").exists()
