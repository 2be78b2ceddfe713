import json

from benchmarks import zoo


def test_building_is_measured_beside_a_plain_loop(capsys):
    zoo.main(["--mlps", "2", "--plain", "2", "--pairs", "1", "--cnns", "0", "--steps", "20"])
    *table, last = capsys.readouterr().out.splitlines()
    rows = {row["figure"]: row for row in json.loads(last)["rows"]}
    for name in ("seconds", "cpu_seconds", "plain_loop_seconds_scaled", "over_plain_loop"):
        assert rows[f"mlps_64_16_10_{name}"]["value"] > 0
    # Aims are those of 1,000 networks.
    assert all(row["aim"] is None for row in rows.values())
    assert rows["mlps_64_16_10_plain_loop_accuracy"]["n"] == 2 == rows["mlps_64_16_10_accuracy"]["n"]
    assert abs(rows["mlps_64_16_10_plain_loop_accuracy"]["value"] - rows["mlps_64_16_10_accuracy"]["value"]) < 0.01
    assert {"barrier_as_they_are", "barrier_aligned"} < set(rows) and all(name in "".join(table) for name in rows)
