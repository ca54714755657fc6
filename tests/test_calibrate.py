"""`launch.calibrate` as a user starts it, what a benchmark times, and what the table makes of its rows."""

import importlib.util
import json
import math
import pathlib

import programs
import pytest
from etils import epath

from suite import benchmark
from suite.report import calibration
from suite.sweep.record import Record, Row

SMALL = ["--shapes=2x16x32", "--processes=2", "--rounds=1"]
TORCH = importlib.util.find_spec("torch") is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_calibration_is_done_once_and_says_who_is_missing(tmp_path: pathlib.Path) -> None:
    argv = programs.command("calibrate", f"--out={tmp_path}", "--families=gru,delta", *SMALL)
    ran = programs.run(argv)
    assert ran.returncode == 0, ran.stderr
    before = [(tmp_path / f"process-{number}.jsonl").read_text() for number in (0, 1)]
    again = programs.run(argv)
    assert again.returncode == 0, again.stderr
    assert [(tmp_path / f"process-{number}.jsonl").read_text() for number in (0, 1)] == before

    gru, delta = json.loads((tmp_path / "calibration.json").read_text())
    assert gru["chosen"] == "factors"
    assert gru["contenders"]["scan"]["off"] < 1e-4
    assert delta["contenders"]["chunked 16"]["off"] < 1e-4
    assert {"chunked 16", "sequential"} <= delta["contenders"].keys()
    assert "chunked 32" not in delta["contenders"]  # longer than the sequence, a chunk of 16 is the same
    text = (tmp_path / "calibration.md").read_text()
    for package in ("fla", "torch"):
        if importlib.util.find_spec(package) is None:
            assert f"{package} is not installed" in text


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--families=lstm,rnn", "families rnn are not known; wanted lstm"),
        ("--shapes=8x256", "cannot read the shape '8x256'; wanted batch x length x width"),
    ],
)
def test_what_cannot_be_timed_is_refused(flag: str, said: str, tmp_path: pathlib.Path) -> None:
    ran = programs.run(programs.command("calibrate", f"--out={tmp_path}", flag))
    assert ran.returncode == 70
    assert said in ran.stderr


def test_timings_of_two_machines_do_not_come_into_one_table(tmp_path: pathlib.Path) -> None:
    Record(epath.Path(tmp_path), "process-0").append({"phase": "peak", "place": "amd-epyc-2-cores-data1"})
    ran = programs.run(programs.command("calibrate", f"--out={tmp_path}", "--families=gru", *SMALL))
    assert ran.returncode == 70
    assert f"{tmp_path} holds timings of amd-epyc-2-cores-data1 and this is " in ran.stderr
    assert len(Record(epath.Path(tmp_path), "process-0").rows()) == 1


@pytest.mark.parametrize("family", benchmark.FAMILIES)
def test_all_contenders_compute_the_same(family: str) -> None:
    found = list(benchmark.run(benchmark.Benchmark(family, 2, 24, 32, 16, "float32"), rounds=1))
    ran = {row["contender"]: row for row in found if row["outcome"] == "ok"}
    assert benchmark.chosen(benchmark.Benchmark(family, 2, 24, 32, 16, "float32")) in ran
    assert "pytorch" not in [row["contender"] for row in found] or ("pytorch" in ran) == TORCH
    for name in ("value", "last_value"):
        values = [row[name] for row in ran.values() if name in row]
        assert (
            values == pytest.approx([values[0]] * len(values), rel=1e-4, abs=1e-4) if values else name == "last_value"
        )
    for row in ran.values():
        assert len(row["seconds"]) == 1


def test_products_are_those_of_the_loops() -> None:
    flops = {}
    for family, contender in (("lstm", "scan"), ("attention", "blocked")):
        for row in benchmark.run(benchmark.Benchmark(family, 2, 24, 32, 16, "float32"), rounds=1):
            if row["contender"] == contender:
                flops[family] = row["flops"]
    assert flops["lstm"] == 3 * 2 * 24 * 2 * (32 * 128 + 32 * 128)
    assert flops["attention"] == 3 * 2 * 2 * (24 * 25 // 2) * 2 * 32


def contest_row(contender: str, process: int, seconds: list[float], **facts) -> Row:
    shape = {"family": "lstm", "batch": 1, "length": 2, "width": 4, "head_size": 2, "dtype": "float32"}
    where = {"phase": "benchmark", "process": process, "graphs": False, "platform": "cpu", "chosen": "factors"}
    return shape | where | {"contender": contender, "seconds": seconds, "value": 1.0, "outcome": "ok"} | facts


def test_ratios_are_of_the_same_process() -> None:
    rows = []
    for process, speed in enumerate((1.0, 10.0, 3.0)):
        rows.append(contest_row("factors", process, [2 * speed, 2.2 * speed, 9 * speed]))
        rows.append(contest_row("pytorch", process, [speed, 1.1 * speed, 1.2 * speed]))
    [found] = calibration.results(rows)
    ratio = found["contenders"]["factors"]["ratio"]
    assert found["against"] == "pytorch"
    assert ratio["value"] == pytest.approx(2.0)
    assert ratio["low"] == pytest.approx(ratio["high"])  # the machine's drift is out of it


def test_a_fraction_of_what_can_be_attained_is_of_the_longest_floor() -> None:
    facts = {"flops": 100, "argument_bytes": 40, "output_bytes": 10, "temp_bytes": 0, "dependent_steps": 2}
    peak = {"phase": "peak", "process": 0, "flops_per_second": 100.0, "bytes_per_second": 25.0}
    [found] = calibration.results([peak, contest_row("factors", 0, [4.0], **facts)])
    assert found["contenders"]["factors"]["of_attainable"] == pytest.approx(0.5)  # 50 bytes at 25 a second


def test_one_that_failed_stands_there_with_its_reason() -> None:
    failed = contest_row("cudnn", 0, [], outcome="refused", error="float32 only")
    [found] = calibration.results([contest_row("factors", 0, [1.0]), failed])
    assert found["contenders"]["cudnn"] == {"outcome": "refused", "error": "float32 only"}
    assert found["against"] == "factors"
    assert not math.isnan(found["contenders"]["factors"]["seconds"])


def test_the_page_of_a_calibration_has_the_ratio_to_the_baseline_and_the_reason_of_a_failure(
    tmp_path: pathlib.Path,
) -> None:
    where = {"jax": "0.10.2", "commit": "abc", "device_kind": "Some CPU", "n_devices": 1}
    rows = [contest_row("pytorch", process, [1.0, 1.1], **where) for process in (0, 1)]
    rows += [contest_row("factors", process, [2.0, 2.2], **where) for process in (0, 1)]
    rows += [contest_row("cudnn", 0, [], outcome="refused", error="float32 only", **where)]
    assert calibration.write(rows, {}, "the command", tmp_path) == tmp_path / "calibration.html"
    page = (tmp_path / "calibration.md").read_text()
    assert "The chosen implementations take 2 to 2 times the time of other libraries over one benchmark." in page
    assert "cudnn: refused: float32 only" in page
    assert "the CPU (Some CPU)" in page
