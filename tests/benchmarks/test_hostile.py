"""A small seeded part of the hostile inputs: none is answered unclearly, changes a file or runs code."""

import pytest

from benchmarks.hostile import main
from benchmarks.sweeps.hostile_inputs import KINDS


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hydra"])  # Hydra's state is global
def test_hostile_inputs_are_answered_clearly(kind):
    results = main(["--inputs", "12", "--seed", "0", "--kinds", kind, "--limit", "120"])
    values = {row.figure: row.value for row in results.rows}
    assert values["hostile_accepted"] + values["hostile_refused"] == 12
    assert values["hostile_refused"] > 0
    assert values["hostile_lost"] == values["hostile_executed"] == 0
