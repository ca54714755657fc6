"""The report: verdicts on made-up timings, derived numbers, and files that can be read at any moment."""

import csv
import dataclasses
import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from typing import Any

import planted
import pytest

from suite import claims, parts, report
from suite.claims import LIKE_ATTENTION, LIKE_LSTM, NEITHER, Control, Figure, Finding, Number, Point, parallelism
from suite.job import Job
from suite.report import diff, fairness, figures, page, records, results, trainings, utilisation, verdicts
from suite.sweep import store
from suite.sweep.record import Record, Row, stem, stem_of

GPU = {"platform": "gpu", "device_kind": "NVIDIA H200", "n_devices": 1, "place": "nvidia-h200-data1"}
CPU = {"platform": "cpu", "device_kind": "Some CPU", "n_devices": 1, "place": "some-cpu-2-cores-data1"}
JOB = Job(width=64, length=1024, batch=4)
LSTM = JOB.replace(mixer="lstm", match_to="attention")
COLUMNS = (
    "run_id arm task block short_conv match seed learning_rate params flops_per_token tokens train_length eval_length "
    "batch n_devices device_kind dtype implementation metric value n outcome"
)


def conditions(job: Job, measure: str, place: Row, repeat: int = 0, interleave_with: str = "") -> Row:
    placed = measure.split(":")[0] in ("step_time", "peak") or job.budget_seconds > 0
    row = {"measure": measure, "repeat": repeat, "interleave_with": interleave_with, "placed": placed}
    row |= {"run_id": job.id, "arm": job.arm, "solved": job.arm, "width": 56 if job.match_to else job.width}
    row |= {"params": 113984, "params_mismatch": 0.02, "implementation": "reference", "n_processes": 1}
    return row | {"jax": "0.10.2", "commit": "abc", "source": "0123456789abcdef"} | place


def put(
    root: pathlib.Path, job: Job, measure: str, rows: list[Row], place: Row, repeat: int = 0, interleave_with: str = ""
) -> None:
    """Writes rows as launch.job does."""
    run = store.open_run(root, job)
    shared = conditions(job, measure, place, repeat, interleave_with)
    name = stem(measure, place["place"] if shared["placed"] else "", repeat, interleave_with)
    for row in rows:
        Record(run, name).append({"outcome": "ok", **row, **shared})


def put_time(
    root: pathlib.Path, job: Job, seconds: float, place: Row, repeat: int = 0, interleave_with: str = ""
) -> None:
    bytes_moved = {"argument_bytes": 10**6, "output_bytes": 10**6, "alias_bytes": 10**6, "temp_bytes": 10**7}
    tokens = 5 * job.batch * job.length
    shared = {"calls": 5, "tokens": tokens, "burst_seconds": 5 * seconds}
    blocks = [{"phase": "block", "turn": turn, "fenced_seconds": seconds, **shared} for turn in range(3)]
    compiled = {"phase": "compile", "compile_seconds": 2.5, "cached": repeat > 0, **bytes_moved}
    rows = [compiled, *blocks, {"phase": "fed", "fed_seconds": 6 * seconds, **shared}]
    put(root, job, "step_time:blocks=3", rows, place, repeat, interleave_with)


def put_pair(
    root: pathlib.Path, ratio: float, *, place: Row = GPU, processes: int = 3, control: float = 2.0, noise: float = 0.01
) -> list[Row]:
    """Timings in which attention is `ratio` times as fast as the LSTM; returns all rows."""
    for repeat in range(processes):
        drift = math.exp(noise * (repeat - 1))
        for interleave_with in ("length 1024", parallelism.BEST):
            put_time(root, JOB, 0.1, place, repeat, interleave_with)
            put_time(root, LSTM, 0.1 * ratio * drift, place, repeat, interleave_with)
        for mixer, seconds in ((parallelism.PARALLEL, 0.1), (parallelism.SEQUENTIAL, 0.1 * control * drift)):
            put_time(root, JOB.replace(mixer=mixer), seconds, place, repeat, parallelism.CONTROL)
    return store.load(root)


def put_size(root: pathlib.Path, job: Job, flops: float, depth: int, place: Row) -> None:
    depths = {"sequential_depth": depth, "sequential_depth_ran": depth}
    model = {
        "phase": "model",
        "flops_per_token": flops,
        "elementwise_per_token": 1.0,
        "flops_per_token_square": 2 * flops,
    }
    states = [{"phase": "state", "context": context, "state_bytes": 4 * context} for context in (1024, 16384)]
    put(root, job, "size", [model | depths, *states], place)


def put_answers(root: pathlib.Path, job: Job, accuracy: float, place: Row) -> None:
    """A training that was tested and not validated on its way."""
    at = {"phase": "test", "step": job.steps, "tokens": 9, "seconds": 1.0, "fingerprint": 7, "examples": 1024}
    put(root, job, "learning", [at | {"loss": 0.5, "accuracy": 0.5, "final_accuracy": accuracy}], place)


def put_learning(root: pathlib.Path, job: Job, loss: float, place: Row, corpus: str = "") -> None:
    rows: list[Row] = []
    for number in (1, 2, 3):
        at = {"step": 10 * number, "tokens": 40960 * number, "seconds": 1.5 * number}
        rows.append({"phase": "train", "loss": loss + 1 / number, "gradient_norm": 1.0, **at})
        held = {"examples": 64, "fingerprint": 7 * number, "loss": loss + 1 / number, "accuracy": 0.5}
        rows.append({"phase": "validation", **at, **held})
    rows.append({**rows[-1], "phase": "test", "examples": 256})
    if corpus:
        rows = [row | {"corpus_sha256": corpus} for row in rows]
    put(root, job, "learning", rows, place)


def put_all(root: pathlib.Path, place: Row, job: Job = LSTM) -> None:
    """A small comparison: sizes, a peak, timings at two lengths, learning curves."""
    for at in (512, 1024):
        for arm, depth in ((JOB, 140), (job, 16 * at)):
            put_size(root, arm.replace(length=at), 3e5, depth, place)
            for repeat in (0, 1, 2):
                put_time(root, arm.replace(length=at), 0.1 + 0.001 * repeat, place, repeat, f"length {at}")
    peak = {
        "phase": "peak",
        "dtype": "float32",
        "flops_per_second": 2e11,
        "bytes_per_second": 5e9,
        "step_seconds": 1e-8,
    }
    put(root, JOB, "peak", [peak], place)
    for arm, loss in ((JOB, 2.0), (job, 1.8)):
        put_learning(root, arm.replace(length=256, batch=16), loss, place)


def describe(root: pathlib.Path, scale: str, evidence: bool, arms: list[str], place: Row) -> None:
    settings = {"scale": scale, "about": "", "evidence": evidence, "arms": arms, "claims": ["parallelism"]}
    settings |= {"command": [f"--scale={scale}", "--out=somewhere"], "place": place, "untested": {}}
    (root / "compare.json").write_text(json.dumps(settings))


def finding(verdict: str = "untested", basis: str = "measured", **fields: Any) -> Finding:
    return Finding(verdict, basis, "a sentence", "a reason", **fields)


def with_findings(root: pathlib.Path, **findings: Finding) -> records.Comparison:
    """A small comparison with made-up findings in the place of its own."""
    if not (root / "runs").exists():
        put_all(root, CPU)
        describe(root, "quick", True, ["attention", "lstm"], CPU)
    [template] = records.read(root).judged
    judged = tuple(dataclasses.replace(template, name=name, finding=finding) for name, finding in findings.items())
    return dataclasses.replace(records.read(root), judged=judged)


SEEDS = claims.Table("Seeds that solved it", ("arm", "solved"), (("attention", "5/5"), ("lstm", "0/5")))


def points(series: str, ys: dict[float, float], spread: float = 0.0) -> tuple[Point, ...]:
    bounds = (1 - spread, 1 + spread) if spread else ()
    return tuple(Point(series, x, y, *(y * bound for bound in bounds)) for x, y in ys.items())


def seven() -> dict[str, Finding]:
    """A finding of every claim, with every kind of figure."""
    ratio = "attention / LSTM"
    speed = points(ratio, {128: 1.25, 512: 0.8, 1024: 0.5}, 0.1)
    seeds = [Point(arm, x, y) for x in (8, 64) for arm, y in (("attention", 1.0), ("lstm", 0.5)) for _ in range(5)]
    latency = (*points("batch 1", {1024: 0.5, 4096: 2.0}, 0.2), *points("batch 1, bfloat16 cache", {1024: 0.4}))
    reach = points("lstm", {1: 1.0, 10: 1e-3, 999: 0.0}) + points("attention, plain", {1: 1.0, 999: 0.5})
    numbers = tuple(
        Number(f"a quantity, {which}", 0.5, "x", 3, "again", 0.4, 0.6) for which in ("one", "other", "third")
    )
    of_speed = Figure(
        *("training_speed_ratio", "t", "x", "y", speed, {"equal": 1.0, "textbook": 10.0}, ((ratio, 2048),)),
        cost="step time",
        inverted=True,
    )
    of_seeds = Figure("recall", "t", "x", "y", tuple(seeds), {"solved": 0.9}, (("lstm", 64),), dots=True, log_y=False)
    more = points(ratio, {1024: 50.0, 4096: 200.0})
    of_bytes = Figure("state_bytes_ratio", "t", "x", "y", more, cost="state bytes", exact=True)
    of_latency = Figure("decode_latency_ratio", "t", "x", "y", latency, cost="decode latency")
    return {
        "parallelism": finding(numbers=numbers, figures=(of_speed,), headline="attention trained at half the speed"),
        "path_length": finding(
            "holds",
            figures=(of_seeds,),
            speaks_for="distances up to 48",
            conditions=(
                claims.Condition("as judged first", "holds", "a reason"),
                claims.Condition("at 4 times the steps", "holds", "a reason"),
            ),
            untried=("the block",),
            headline="it solved recall in 5/5 seeds against 0/5",
            arms=(("gru", LIKE_LSTM), ("elman", LIKE_LSTM)),
            tables=(SEEDS,),
        ),
        "gradient_flow": finding("fails", figures=(Figure("reach", "t", "x", "y", reach),)),
        "inference_memory": finding("holds", "construction", figures=(of_bytes, of_latency)),
        "context_length": finding(),
        "compute_scaling": finding(),
        "state_tracking": finding("undecided", arms=(("mingru", LIKE_ATTENTION), ("gru", LIKE_LSTM))),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a whole report."""
    root = tmp_path_factory.mktemp("drawn")
    put_all(root, CPU)
    describe(root, "quick", True, ["attention", "lstm"], CPU)
    assert report.write(root) == root / "report.html"
    return root


def judge(rows: list[Row]) -> Finding:
    return planted.finding(parallelism, rows)


# The claim `parallelism`, on made-up timings.


def test_a_ratio_beyond_the_threshold_holds(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0))
    assert finding.verdict == "holds"
    assert finding.numbers[0].value == pytest.approx(20.0, rel=0.01)
    assert finding.numbers[0].low == pytest.approx(20.0, rel=0.05)
    assert finding.numbers[0].high == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize(("ratio", "direction"), [(2.0, "attention is the faster one"), (0.5, "reversed")])
def test_a_ratio_below_the_threshold_fails_and_its_direction_is_said(
    tmp_path: pathlib.Path, ratio: float, direction: str
):
    finding = judge(put_pair(tmp_path, ratio))
    assert finding.verdict == "fails"
    assert direction in finding.reason


def test_an_interval_across_the_threshold_is_undecided(tmp_path: pathlib.Path):
    assert judge(put_pair(tmp_path, 10.0, noise=0.2)).verdict == "undecided"


def test_a_broken_control_leaves_it_undecided(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0, control=0.9))
    assert finding.verdict == "undecided"
    assert not finding.controls[0].met


def test_a_cpu_is_not_what_the_textbook_speaks_of(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0, place=CPU))
    assert (finding.verdict, finding.numbers[0].n) == ("untested", 3)
    assert "CPU" in finding.reason


def test_trainings_on_a_cpu_do_not_untest_timings_on_a_gpu(tmp_path: pathlib.Path):
    put_learning(tmp_path, JOB, 2.0, CPU)
    assert judge(put_pair(tmp_path, 20.0)).verdict == "holds"


def test_one_process_gives_no_interval(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0, processes=1))
    assert finding.verdict == "untested"
    assert finding.numbers[0].low is None


def test_a_scale_that_is_no_evidence_is_untested_whatever_it_measured(tmp_path: pathlib.Path):
    put_pair(tmp_path, 20.0)
    describe(tmp_path, "smoke", False, ["attention", "lstm"], GPU)
    finding = records.read(tmp_path).judged[0].finding
    assert finding.verdict == "untested"
    assert "not evidence" in finding.reason


# Derived numbers.


def only_timing(root: pathlib.Path, flops: float, place: Row) -> tuple[utilisation.Machine, utilisation.Timing]:
    put_time(root, JOB, 0.1, place)
    put_size(root, JOB, flops, 140, place)
    rows = store.load(root)
    [timing] = utilisation.timings(rows)
    return utilisation.Machine(rows), timing


def test_mfu_is_three_forward_passes_over_the_peak_of_all_devices(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e9, {**GPU, "n_devices": 2})
    assert machine.mfu(timing) == pytest.approx(3 * 1e9 * 4096 / 0.1 / (2 * 494.7e12))


def test_an_mfu_above_one_raises_and_is_not_published(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e12, GPU)
    with pytest.raises(ValueError, match=r"MFU of 248\.\d\d is above 1"):
        machine.mfu(timing)
    [line] = [line for line in results.table(store.load(tmp_path)) if line["metric"] == "mfu"]
    assert line["value"] == ""
    assert "above 1" in line["outcome"]


def test_an_unknown_device_raises_and_names_the_line_to_add(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e9, {**GPU, "device_kind": "Foo 9000"})
    with pytest.raises(LookupError, match=r"Foo 9000.*suite/hardware\.py"):
        machine.mfu(timing)
    assert machine.bytes_per_second(timing) == pytest.approx(2e6 / 0.1)


def test_a_cpu_without_its_measured_peak_says_so(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e9, CPU)
    with pytest.raises(LookupError, match="run the measure `peak`"):
        machine.mfu(timing)


def test_the_floor_is_the_longest_of_work_bytes_and_chain(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    rows = store.load(tmp_path)
    machine = utilisation.Machine(rows)
    timings = {(timing.row["arm"], timing.row["length"]): timing for timing in utilisation.timings(rows)}
    work = 3 * 3e5 * 4096 / 2e11
    assert machine.floor_seconds(timings["attention", 1024]) == pytest.approx(work)
    assert machine.sequential_steps(timings["attention", 1024].row) == 0
    assert machine.sequential_steps(timings["lstm", 1024].row) == 2 * 1024
    [peak] = [row for row in rows if row.get("phase") == "peak"]
    peak["step_seconds"] = 1e-5
    assert machine.floor_seconds(timings["lstm", 1024]) == pytest.approx(2 * 2 * 1024 * 1e-5)
    peak["bytes_per_second"] = 1e6
    assert machine.floor_seconds(timings["attention", 1024]) == pytest.approx(2.0)


def test_a_batch_that_was_only_looked_at_counts_where_there_is_nothing_better(tmp_path: pathlib.Path):
    put_time(tmp_path, JOB, 9.0, GPU, interleave_with=parallelism.LADDER)
    assert utilisation.timings(store.load(tmp_path))[0].seconds == pytest.approx(9.0)
    put_time(tmp_path, JOB, 0.1, GPU, interleave_with="length 1024")
    assert utilisation.timings(store.load(tmp_path))[0].seconds == pytest.approx(0.1)


# results.csv


def table(root: pathlib.Path) -> list[dict[str, str]]:
    with open(root / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_tidy(drawn: pathlib.Path):
    lines = table(drawn)
    assert list(lines[0]) == COLUMNS.split()
    wanted = {
        "step_seconds",
        "tokens_per_second",
        "compile_seconds",
        "peak_temp_bytes",
        "mfu",
        "state_bytes",
        "sequential_depth",
    }
    wanted |= {
        "validation_loss_nats",
        "validation_bits_per_byte",
        "test_bits_per_byte",
        "test_accuracy",
        "fraction_of_attainable",
    }
    assert wanted <= {line["metric"] for line in lines}
    assert all(line["value"] == "" or math.isfinite(float(line["value"])) for line in lines)
    [bits] = [float(line["value"]) for line in lines if (line["metric"], line["arm"]) == ("test_bits_per_byte", "lstm")]
    assert bits == pytest.approx((1.8 + 1 / 3) / math.log(2))
    [step] = [
        line
        for line in lines
        if (line["metric"], line["arm"], line["train_length"]) == ("step_seconds", "lstm", "1024")
    ]
    assert (float(step["value"]), step["n"]) == (pytest.approx(0.101), "3")


def test_what_does_not_fit_stands_in_the_table_without_a_number(tmp_path: pathlib.Path):
    put(
        tmp_path,
        JOB,
        "step_time:blocks=3",
        [{"outcome": "oom", "error": "RESOURCE_EXHAUSTED"}],
        GPU,
        interleave_with="length 1024",
    )
    put(
        tmp_path,
        LSTM,
        "learning",
        [{"outcome": "diverged", "phase": "train", "step": 3, "tokens": 9, "seconds": 1.0}],
        GPU,
    )
    run = store.open_run(tmp_path, JOB.replace(length=512))
    place = {key: GPU[key] for key in ("place", "platform", "device_kind", "n_devices")}
    given_up = {
        "measure": "step_time:blocks=3",
        "repeat": 0,
        "interleave_with": "length 512",
        "run_id": run.name,
        "arm": "attention",
    }
    row = {"outcome": "crashed", "error": "exit code -9", "placed": True, **given_up, **place}
    Record(run, stem_of(row)).append(row)
    report.write(tmp_path)
    lines = {line["outcome"]: line for line in table(tmp_path)}
    assert {"oom", "diverged", "crashed"} <= set(lines)
    assert {lines[outcome]["value"] for outcome in ("oom", "diverged", "crashed")} == {""}
    text = (tmp_path / "report.html").read_text()
    assert "out of memory" in text
    assert "diverged at step 3" in text


# The files, at any moment.


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_findings_are_strict_json(drawn: pathlib.Path):
    stored = strict((drawn / "report.json").read_text())
    [claim] = stored["claims"]
    assert (claim["name"], claim["verdict"]) == ("parallelism", "untested")
    assert re.fullmatch("[0-9a-f]{12}", claim["rule_hash"])
    assert stored["headline"] == report.headline(drawn)


def test_the_headline_has_this_machine_and_no_number_without_its_control(drawn: pathlib.Path):
    sentence = report.headline(drawn)
    assert "Some CPU" in sentence
    assert "float32" in sentence
    assert "attention trained" not in sentence  # the two forms of one mixer were not timed
    assert sentence.endswith("no claim is decided by measurement.")
    assert "the LSTM stood at 3.08 and attention at 3.37 bits per byte" in (drawn / "report.md").read_text()


def test_the_headline_is_one_sentence_of_the_claims_clauses_and_counts(tmp_path: pathlib.Path):
    sentence = verdicts.headline(with_findings(tmp_path, **seven()))
    clauses = "attention trained at half the speed; it solved recall in 5/5 seeds against 0/5"
    counts = "one claim holds, one fails and one is undecided; by construction, inference memory holds"
    assert sentence == f"On the CPU (Some CPU), float32, {clauses}; {counts}."


def test_a_construction_is_not_counted_among_findings(tmp_path: pathlib.Path):
    sentence = verdicts.headline(with_findings(tmp_path, inference_memory=seven()["inference_memory"]))
    assert sentence.endswith("no claim is decided by measurement; by construction, inference memory holds.")


def test_the_first_clause_of_the_headline_names_who_it_speaks_of(tmp_path: pathlib.Path):
    sentence = verdicts.headline(with_findings(tmp_path, path_length=seven()["path_length"]))
    assert "float32, attention solved recall in 5/5 seeds" in sentence


def section(comparison: records.Comparison, title: str) -> list[page.Block]:
    """The blocks beneath a heading of the report."""
    blocks = report.compose(comparison).blocks
    start = next(at for at, block in enumerate(blocks) if isinstance(block, page.Heading) and block.text == title)
    rest = itertools.takewhile(lambda block: not isinstance(block, page.Heading), blocks[start + 1 :])
    return list(rest)


def table_of(comparison: records.Comparison, title: str) -> page.Table:
    [table] = [block for block in section(comparison, title) if isinstance(block, page.Table)]
    return table


def test_findings_and_constructions_and_what_cannot_be_said_stand_apart(tmp_path: pathlib.Path):
    comparison = with_findings(tmp_path, **seven())
    names = {
        title: [links[0].text for links in table_of(comparison, title).links]
        for title in ("Findings", "By construction", "What this scale cannot say")
    }
    assert names["Findings"] == ["path length", "gradient flow", "state tracking"]
    assert names["By construction"] == ["inference memory"]
    assert names["What this scale cannot say"] == ["parallelism"]
    row, *_ = table_of(comparison, "Findings").rows
    turning = "the same at 4 times the steps; not tried: the block"
    assert row[1:] == ("A sentence.", "holds", "distances up to 48", turning)


def test_what_turns_a_verdict_stands_on_the_first_screen_and_in_its_section(tmp_path: pathlib.Path):
    first = claims.Condition("as judged first", "holds", "only attention solves it")
    longer = claims.Condition("at 4 times the steps", "fails", "both solve it")
    turned = finding("undecided", conditions=(first, longer))
    comparison = with_findings(tmp_path, path_length=turned)
    [row] = table_of(comparison, "Findings").rows
    assert row[2:] == ("undecided", "", "it turns: holds as judged first, fails at 4 times the steps")
    assert report.compose(comparison).markdown().count("both solve it") == 1


def test_trainings_that_are_left_out_are_listed_and_counted_among_the_warnings(tmp_path: pathlib.Path):
    lost = finding("holds", left_out=("1 training of lstm at length 52 with steps 5",))
    shown = report.compose(with_findings(tmp_path, path_length=lost))
    [banner] = [block.text for block in shown.blocks if isinstance(block, page.Banner)]
    assert banner == "Left out of verdicts: one group of trainings unlike those that were judged; see path length."
    assert shown.markdown().count("1 training of lstm at length 52 with steps 5") == 1


def test_a_claim_and_its_figure_are_one_click_away(tmp_path: pathlib.Path):
    links, *_ = table_of(with_findings(tmp_path, **seven()), "Findings").links
    assert links == (page.Link("path length", "claim-path_length"), page.Link("figure", "figure-recall"))


def test_what_a_scale_cannot_say_is_said_once(tmp_path: pathlib.Path):
    comparison = dataclasses.replace(with_findings(tmp_path, **seven()), untested={"parallelism": "this is a CPU"})
    table = table_of(comparison, "What this scale cannot say")
    assert table.rows == (
        ("parallelism", "this is a CPU", "A sentence."),
        ("context length, compute scaling", "a reason", ""),
    )
    assert [link.text for link in table.links[1]] == ["context length", "compute scaling"]
    assert report.compose(comparison).markdown().count("this is a CPU") == 1


def test_the_first_screen_says_what_the_words_of_this_project_mean(tmp_path: pathlib.Path):
    blocks = report.compose(with_findings(tmp_path, **seven())).blocks
    before = " ".join(map(str, blocks[: blocks.index(page.Heading("Findings"))]))
    for meaning in ("its mixer, the layer", "is an arm", "A claim is", "the judged pair", "The scale, how much is run"):
        assert meaning in before


def test_claims_stand_in_the_textbooks_order_and_others_after_them(tmp_path: pathlib.Path):
    users = tmp_path / "aaa.py"
    users.write_text(
        "from suite.claims import Finding\n\nQUESTION = TEXTBOOK = CLAIMED = RULE = 'own'\n\n\n"
        "SIZES = {}\n\n\ndef cells(scale, rows):\n    return []\n\n\n"
        "def judge(rows, *, least=2):\n    return Finding('untested', 'measured', f'least {least}', 'own')\n\n\n"
        "def tell(rows, judged, *, least):\n    return judged\n"
    )
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    settings = json.loads((tmp_path / "compare.json").read_text()) | {"claims": [str(users), "parallelism"]}
    (tmp_path / "compare.json").write_text(json.dumps(settings))
    assert [judged.name for judged in records.read(tmp_path, (), [str(users)]).judged] == ["parallelism", str(users)]
    changed = records.read(tmp_path, [f"{users}.least=3"], [str(users)]).judged[1]
    assert (changed.finding.sentence, changed.changed) == ("least 3", (records.Threshold("least", 3, 2),))


def test_a_claims_tables_and_the_extent_of_its_verdict_stand_in_its_section(tmp_path: pathlib.Path):
    blocks = report.compose(with_findings(tmp_path, **seven())).blocks
    assert page.Heading("Seeds that solved it", 3) in blocks
    assert page.Table(("arm", "solved"), (("attention", "5/5"), ("lstm", "0/5"))) in blocks
    pairs = [pair for block in blocks if isinstance(block, page.Terms) for pair in block.pairs]
    assert ("Verdict extends", "to gru and elman") in pairs
    assert [text for term, text in pairs if term == "Verdict extends"] == ["to gru and elman"], (
        "an open verdict extends to none"
    )


def test_a_verdict_says_for_which_arms_it_holds_too():
    arms = (("gru", LIKE_LSTM), ("mamba2", LIKE_ATTENTION), ("lru", NEITHER))
    assert verdicts.extent(finding("holds", arms=arms)) == "to gru; not to mamba2; open for lru"
    assert verdicts.extent(finding("fails", arms=arms[1:])) == "to no other arm; not to mamba2; open for lru"
    assert verdicts.extent(finding("undecided", arms=arms)) == ""


def test_every_arm_stands_on_one_line_of_two_tables(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    describe(tmp_path, "quick", True, ["attention", "lstm", "gru"], CPU)
    parity = JOB.replace(task="parity", length=20)
    for mixer, accuracy in (("attention", 0.5), ("lstm", 1.0), ("gru", 0.95)):
        for seed in (0, 1):
            put_answers(tmp_path, parity.replace(mixer=mixer, seed=seed), accuracy, CPU)
    blocks = report.compose(with_findings(tmp_path, **seven())).blocks
    start = blocks.index(page.Heading("Every arm"))
    tasks, likeness = (block for block in blocks[start : start + 5] if isinstance(block, page.Table))
    assert tasks.columns == ("arm", "parity, 20 tokens")
    assert tasks.rows == (("attention", "0.50 (0/2)"), ("lstm", "1.00 (2/2)"), ("gru", "0.95 (2/2)"))
    assert likeness.columns == ("arm", "path length", "state tracking")
    assert ("gru", "like the LSTM", "like the LSTM") in likeness.rows
    assert ("mingru", "not judged", "like attention") in likeness.rows


class Page(HTMLParser):
    """Start tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_the_page_asks_no_network(drawn: pathlib.Path):
    text = (drawn / "report.html").read_text()
    named = [attrs[name] for _, attrs in Page(text).tags for name in ("src", "href") if name in attrs]
    assert [name for name in named if not str(name).startswith("#")] == ["data:,"]
    assert "default-src 'none'" in text
    [specs] = re.findall(r'id="specs">(.*?)</script>', text, re.DOTALL)
    assert "://" not in specs
    assert text.count("window.vegaEmbed=") == 1  # one bundle for all figures


def test_every_link_has_its_anchor(tmp_path: pathlib.Path):
    shown = report.compose(with_findings(tmp_path, **seven()))
    tags = Page(shown.html()).tags
    anchors = [attrs["id"] for _, attrs in tags if "id" in attrs]
    links = [str(attrs["href"])[1:] for tag, attrs in tags if tag == "a"]
    assert len(set(anchors)) == len(anchors)
    assert set(links) <= set(anchors)
    assert "claim-path_length" in links
    written = shown.markdown()
    assert re.findall(r"\]\(#(.*?)\)", written) == links
    assert set(links) <= set(re.findall('<a id="(.*?)"></a>', written))


def test_every_number_has_its_command(drawn: pathlib.Path):
    for name in ("report.html", "report.md"):
        text = (drawn / name).read_text()
        assert "python -m launch.compare --scale=quick --out=somewhere" in text
        assert "python -m launch.job --mixer=lstm --width=64 --match_to=attention" in text


def test_markdown_shows_the_pictures(drawn: pathlib.Path):
    pictures = re.findall(r"\]\((figures/.*?\.png)\)", (drawn / "report.md").read_text())
    assert len(pictures) == 7
    assert all((drawn / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_equal_fingerprints_and_the_rate_are_said(drawn: pathlib.Path):
    text = (drawn / "report.md").read_text()
    assert "The fingerprints are equal" in text
    assert "learning rates and seeds are those of the training on text, 256 tokens" in text


def test_a_comparison_that_has_just_begun_has_a_report(tmp_path: pathlib.Path):
    describe(tmp_path, "quick", True, ["attention", "lstm"], {})
    report.write(tmp_path)
    assert report.headline(tmp_path) == "Nothing has been measured yet."
    put_learning(tmp_path, JOB, 2.0, CPU)
    report.write(tmp_path)
    assert "Some CPU" in report.headline(tmp_path)


def test_a_single_job_has_a_report_of_the_newest_place(tmp_path: pathlib.Path):
    put_time(tmp_path, JOB, 0.1, {**GPU, "device_kind": "Foo 9000"})
    report.write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "no peak FLOP/s for &#x27;Foo 9000&#x27;; add a line" in text
    assert "1 x Foo 9000" in report.headline(tmp_path)


def test_rows_of_another_place_are_left_out(tmp_path: pathlib.Path):
    put_pair(tmp_path, 20.0, place=GPU)
    put_pair(tmp_path, 0.5, place=CPU)
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    comparison = records.read(tmp_path)
    assert {row["place"] for row in comparison.rows} == {CPU["place"]}
    assert comparison.judged[0].finding.numbers[0].value == pytest.approx(0.5, rel=0.01)


def test_an_arm_of_the_users_own_is_escaped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "<b>.py").write_text("class Mixer:\n    def __init__(self, width, *, key): ...\n")
    monkeypatch.chdir(tmp_path)
    put_all(tmp_path, CPU, JOB.replace(mixer="./<b>.py", match_to="attention"))
    describe(tmp_path, "smoke", False, ["attention", "./<b>.py"], CPU)
    report.write(tmp_path)
    shown = Page((tmp_path / "report.html").read_text())
    assert not [tag for tag, _ in shown.tags if tag == "b.py" or (tag == "b" and "class" not in dict(_))]
    assert "./<b>.py" in shown.text
    assert r"./\<b\>.py" in (tmp_path / "report.md").read_text()


def test_smoke_says_that_it_is_not_evidence(tmp_path: pathlib.Path):
    describe(tmp_path, "smoke", False, ["attention", "lstm"], CPU)
    put_time(tmp_path, JOB, 0.1, CPU)
    report.write(tmp_path)
    for name in ("report.html", "report.md"):
        assert "Scale smoke is a test of the installation and not evidence" in (tmp_path / name).read_text()
    assert "not evidence" in report.headline(tmp_path)


def put_matched(root: pathlib.Path, match: str, off: float) -> str:
    """A pair that is matched in this and `off` by so much; returns what the report says of fairness."""
    other = LSTM.replace(match=match)
    for job in (JOB, other):
        put_size(root, job, 3e5, 100, CPU)
    if match == "step_time":
        for group, ratio in (("pace lstm 64", 3.0), ("pace lstm 56", 1 + off), ("length 1024", 9.0)):
            put_time(root, JOB, 0.1, CPU, interleave_with=group)
            put_time(root, other, 0.1 * ratio, CPU, interleave_with=group)
    describe(root, "quick", True, ["attention", "lstm"], CPU)
    comparison = records.read(root)
    rows = [row | {"mismatch": off} if row["match_to"] and match != "step_time" else row for row in comparison.rows]
    blocks = tuple(fairness.fairness(dataclasses.replace(comparison, rows=rows), []))
    return "\n".join(str(block) for block in blocks)


@pytest.mark.parametrize(("match", "name"), [("flops", "FLOPs a token"), ("step_time", "step time")])
def test_what_is_left_of_a_mismatch_is_printed_and_flagged_above_five_percent(
    tmp_path: pathlib.Path, match: str, name: str
):
    far = put_matched(tmp_path / "far", match, -0.08)
    assert f"('off the reference in {name}', '0 %', '-8.0 % (above 5 %)')" in far
    assert f"Not matched: lstm differs by more than 5.0 % in {name}." in far
    near = put_matched(tmp_path / "near", match, 0.03)
    assert f"('off the reference in {name}', '0 %', '3.0 %')" in near
    assert "Not matched" not in near


def test_a_comparison_under_two_matchings_has_both_in_its_fairness_and_its_table(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    put_all(tmp_path, CPU, LSTM.replace(match="flops"))
    describe(tmp_path, "gpu", True, ["attention", "lstm"], CPU)
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    first, second = text[text.index("## Fairness\n") :].split("## Fairness with equal FLOPs a token\n")
    assert "off the reference in FLOPs a token" not in first
    assert "off the reference in FLOPs a token" in second
    assert "--match=flops" in second
    assert {row["match"] for row in table(tmp_path) if row["arm"] == "lstm"} == {"params", "flops"}


def test_an_arm_keeps_its_colour_whatever_else_is_drawn():
    few, many = figures.styles(["lstm"]), figures.styles(["./mine.py", "gru", "attention", "attention:heads=8", "lstm"])
    assert few["lstm"] == many["lstm"]
    assert len({colour for colour, _ in many.values()}) == 5


def test_no_two_mixers_look_alike():
    styles = figures.styles(parts.names("suite.mixers"))
    assert len({(colour, *dash) for colour, dash in styles.values()}) == len(styles)


def layers(spec: figures.Spec, **mark: Any) -> list[list[Row]]:
    """The data of the layers that are drawn with such a mark."""
    return [layer["data"]["values"] for layer in spec["layer"] if mark.items() <= layer["mark"].items()]


def draw(figure: Figure, arms: list[str]) -> figures.Spec:
    return figures.draw(figure, figures.styles_of(figure, arms))


def test_labels_at_the_ends_of_lines_do_not_overlap():
    ends = tuple(Point(arm, x, 1.0 + 0.001 * place) for place, arm in enumerate("abcd") for x in (128.0, 1024.0))
    spec = draw(Figure("f", "t", "x", "y", ends, {"textbook": 10.0}), list("abcd"))
    [labels] = layers(spec, limit=figures.LABEL_WIDTH)
    [low, high] = spec["encoding"]["y"]["scale"]["domain"]
    pixels = [figures.HEIGHT * math.log(label["y"] / low) / math.log(high / low) for label in labels]
    assert all(after - before >= figures.LABEL_GAP - 0.01 for before, after in itertools.pairwise(pixels))


def test_thresholds_that_lie_close_share_a_label():
    close = {"looser": 0.03, "tolerance": 0.01, "much": 0.5}
    spec = draw(Figure("f", "t", "x", "y", points("lstm", {1: 0.0, 100: 1.0}), close, log_y=False), ["lstm"])
    assert len(layers(spec, type="rule")[0]) == 3
    labels = [row["label"] for rows in layers(spec, type="text") for row in rows if "series" not in row]
    assert labels == ["tolerance: 0.01, looser: 0.03", "much: 0.5"]


@pytest.mark.parametrize(("low", "high"), [(0.098, 0.105), (0.7, 1.4), (0.3, 30.0), (1e-300, 1.0)])
def test_an_axis_has_a_few_ticks_whatever_it_spans(low: float, high: float):
    marked = figures.ticks(figures.Axis(low, high, True))
    assert 3 <= len(marked) <= figures.MOST_TICKS
    assert all(low <= tick <= high for tick in marked)


def test_a_variant_has_its_arms_colour_and_a_dash_of_its_own():
    figure = Figure("f", "t", "x", "y", points("lstm", {1: 1, 2: 2}) + points("lstm, plain", {1: 1, 2: 2}))
    (colour, dash), (variant_colour, variant_dash) = figures.styles_of(figure, ["attention", "lstm"]).values()
    assert colour == variant_colour == figures.PAIR["lstm"]
    assert dash != variant_dash


def test_every_seed_is_a_dot_and_arms_stand_side_by_side():
    [figure] = seven()["path_length"].figures
    spec = draw(figure, ["attention", "lstm"])
    assert not layers(spec, type="line")
    [dots] = layers(spec, type="circle")
    assert len({dot["x"] for dot in dots}) == len(dots) == len(figure.points)
    for at in (8, 64):
        places = {
            arm: [dot["x"] for dot in dots if (dot["series"], dot["at"]) == (arm, at)] for arm in ("attention", "lstm")
        }
        assert max(places["attention"]) < at < min(places["lstm"])
    assert max(dot["x"] for dot in dots if dot["at"] == 8) < min(dot["x"] for dot in dots if dot["at"] == 64)
    [low, high] = spec["encoding"]["x"]["scale"]["domain"]
    assert all(low < dot["x"] < high for dot in dots)
    assert spec["encoding"]["color"]["legend"]["orient"] == "top"
    assert [[rule["label"] for rule in rules] for rules in layers(spec, type="rule")] == [["solved: 0.9"]]
    [[cross]] = layers(spec, type="point")
    assert cross["series"] == "lstm"


@pytest.mark.parametrize(("log_x", "log_y"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_figure_says_which_of_its_axes_are_logarithmic(log_x: bool, log_y: bool):
    figure = Figure("f", "t", "x", "y", points("lstm", {1: 1, 1000: 2}), log_x=log_x, log_y=log_y)
    encoding = draw(figure, ["lstm"])["encoding"]
    kinds = {True: "log", False: "linear"}
    assert [encoding[axis]["scale"]["type"] for axis in "xy"] == [kinds[log_x], kinds[log_y]]


def test_what_a_logarithmic_axis_cannot_show_is_said(tmp_path: pathlib.Path):
    comparison = with_findings(tmp_path, gradient_flow=seven()["gradient_flow"])
    [drawn] = [chart for chart in report.compose(comparison).charts if chart.name == "reach"]
    assert "lstm at 999" in drawn.note
    assert all(point["y"] > 0 for point in layers(drawn.spec, type="line")[0])


# The one chart.


def test_the_one_chart_shows_what_attention_costs_over_the_lstm():
    costs = verdicts.ratios(seven().values())
    held = {(point.series, point.x): point for cost in costs for point in cost.points}
    assert held["step time", 1024].y == pytest.approx(2.0)  # half the speed is twice the time
    assert held["step time", 1024].low == pytest.approx(1 / 0.55)
    assert held["step time", 1024].high == pytest.approx(1 / 0.45)
    assert held["decode latency", 4096].y == 2.0
    assert held["state bytes", 1024].y == 50.0
    assert len(held) == 7  # of several series the plainest
    assert [cost.failed for cost in costs] == [(("step time", 2048),), (), ()]


def test_a_line_crosses_one_where_it_is_drawn_to():
    costs = verdicts.ratios(seven().values())
    crossed = {cost.cost: at for cost in costs for at in verdicts.crossings(cost)}
    # 0.8 at 128 and 1.25 at 512: half way between their logarithms.
    assert crossed["step time"].value == pytest.approx(256.0)
    assert crossed["step time"].low < 256 < crossed["step time"].high
    assert crossed["decode latency"].value == pytest.approx(2048.0)
    assert "state bytes" not in crossed


def test_a_number_whose_control_failed_says_so_and_makes_no_headline(tmp_path: pathlib.Path):
    broken = Control("the instrument works", False, "it does not")
    number = Number("a quantity", 1024.0, "B", 2, "again", exact=True)
    lost = finding("undecided", numbers=(number,), controls=(broken,), headline="half the speed", tables=(SEEDS,))
    page = report.compose(
        with_findings(tmp_path, parallelism=lost, gradient_flow=finding("holds", headline="it falls"))
    )
    assert "it falls" in page.headline or "attention falls" in page.headline
    assert "half the speed" not in page.headline
    written = page.markdown()
    assert written.count("1,024 B, a control failed") == 1
    assert written.count("A sentence (a control failed).") == 2
    assert "Seeds that solved it (a control failed)" in written


def test_crossovers_are_dots_and_what_failed_is_a_cross_at_the_foot(tmp_path: pathlib.Path):
    chart = report.compose(with_findings(tmp_path, **seven())).charts[0]
    assert chart.name == "crossover"
    [_, dots] = layers(chart.spec, type="circle")
    assert {dot["series"] for dot in dots} == {"step time", "decode latency"}
    assert "step time at about 256 tokens" in chart.note
    [[cross]] = layers(chart.spec, type="point")
    assert (cross["series"], cross["y"]) == ("step time", chart.spec["encoding"]["y"]["scale"]["domain"][0])


def test_what_no_claim_has_is_not_drawn(tmp_path: pathlib.Path):
    assert verdicts.ratios([finding()]) == []
    assert report.compose(with_findings(tmp_path, compute_scaling=finding())).charts[0].name != "crossover"


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_the_quantities_have_colours_of_no_arm_that_are_seen_on_white_and_on_black():
    colours = {colour for colour, _ in verdicts.STYLES}
    assert len(colours) == 3
    assert not colours & {*figures.PAIR.values(), *figures.BLUES, *figures.OTHERS}
    for colour, paper in itertools.product(colours, (page.LIGHT["paper"], page.DARK["paper"])):
        dark, light = sorted((luminance(colour), luminance(paper)))
        assert (light + 0.05) / (dark + 0.05) > 3  # WCAG 2.1 for graphics


# What was trained.


def test_an_arm_has_a_rate_of_its_own_and_probes_are_no_seeds(tmp_path: pathlib.Path):
    job = JOB.replace(length=256, batch=16)
    for mixer, learning_rate in (("attention", 1e-3), ("lstm", 1e-2)):
        arm = job.replace(mixer=mixer, match_to="" if mixer == "attention" else "attention")
        for seed in (0, 1):
            put_learning(tmp_path, arm.replace(seed=seed, learning_rate=learning_rate), 2.0, CPU)
        put_learning(tmp_path, arm.replace(learning_rate=3 * learning_rate), 1.0, CPU)
    comparison = records.read(tmp_path)
    [group] = trainings.trainings(comparison)
    assert {(row["arm"], row["learning_rate"]) for row in group.rows} == {("attention", 1e-3), ("lstm", 1e-2)}
    assert {row["learning_rate"] for row in group.probes} == {3e-3, 3e-2}
    assert group.at_equal_tokens()["lstm"][1] == 2
    assert "rates of 0.001 (attention) and 0.01 (lstm)" in group.conditions


def test_only_text_has_curves_and_other_trainings_of_single_jobs_a_line_for_each_arm(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    task = "recall:pairs=1,vocab=64"
    for seed, accuracy in enumerate((1.0, 0.95, 0.4)):
        put_answers(tmp_path, JOB.replace(task=task, length=64, seed=seed), accuracy, CPU)
    diverged = {"phase": "train", "step": 3, "tokens": 9, "seconds": 1.0, "outcome": "diverged"}
    put(tmp_path, JOB.replace(task=task, length=64, seed=3), "learning", [diverged], CPU)
    put_answers(tmp_path, LSTM.replace(task=task, length=64), 0.1, CPU)
    drawn = report.compose(records.read(tmp_path))
    names = [chart.name for chart in drawn.charts if chart.name.startswith("learning")]
    assert names == ["learning_1_tokens", "learning_1_seconds"]
    [table] = [block for block in drawn.blocks if isinstance(block, page.Table) and block.columns[0] == "trained on"]
    attention, lstm = table.rows
    assert attention[1:] == ("attention", "0.001", "1.000, 0.950, 0.400, diverged", "0.950")
    assert lstm[1:] == ("lstm", "0.001", "0.100", "")
    fair = next(block for block in drawn.blocks if isinstance(block, page.Table) and block.columns[0] == "")
    assert ("seeds of the learning curves", "0", "0") in fair.rows
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    assert page.Heading("Other trainings (not judged)") not in report.compose(records.read(tmp_path)).blocks


def test_a_measure_that_no_claim_asks_for_has_a_plain_table(tmp_path: pathlib.Path):
    decoded = {"phase": "decode", "context": 4096, "sequences": 8, "turn": 0, "decoded": 20, "decode_seconds": 0.1}
    put(tmp_path, JOB, "decode", [decoded], CPU)
    plain = page.Heading("decode (not judged)")
    assert plain not in report.compose(records.read(tmp_path)).blocks
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)  # with the claim of training speed alone
    assert plain in report.compose(records.read(tmp_path)).blocks


def test_conditions_of_new_measures_are_no_metrics(tmp_path: pathlib.Path):
    put(tmp_path, JOB, "gradient_reach", [{"phase": "reach", "distance": 999, "norm": 0.5}], CPU)
    decoded = {"phase": "decode", "context": 4096, "sequences": 8, "turn": 0, "decoded": 20, "decode_seconds": 0.1}
    put(tmp_path, JOB, "decode:batch=8", [decoded], CPU)
    at = {"phase": "distance", "eval_length": 2048, "low": 8, "high": 15, "targets": 77, "accuracy": 0.5}
    put(tmp_path, JOB, "length_accuracy", [at], CPU)
    lines = {line["metric"]: line for line in results.table(store.load(tmp_path))}
    assert set(lines) == {"jacobian_norm_at_999", "decode_seconds_per_token", "distance_accuracy_at_8_to_15"}
    latency = lines["decode_seconds_per_token"]
    assert (latency["value"], latency["eval_length"], latency["batch"]) == (pytest.approx(0.005), 4096, 8)
    accuracy = lines["distance_accuracy_at_8_to_15"]
    assert (accuracy["eval_length"], accuracy["n"]) == (2048, 77)


# Thresholds of the reader's own.


def test_rows_are_judged_again_under_a_threshold_of_the_readers_own(tmp_path: pathlib.Path):
    put_pair(tmp_path, 8.0)
    describe(tmp_path, "quick", True, ["attention", "lstm"], GPU)
    ruled = report.write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("report.*")}
    again = report.write(tmp_path, ["parallelism.threshold=5"])
    assert {path: path.read_bytes() for path in before} == before
    assert (ruled, again) == (tmp_path / "report.html", tmp_path / "rejudged" / "report.html")
    [claim], [by_rule] = (json.loads((path.parent / "report.json").read_text())["claims"] for path in (again, ruled))
    assert (by_rule["verdict"], by_rule["changed"]) == ("fails", [])
    assert (claim["verdict"], claim["changed"]) == ("holds", [{"name": "threshold", "value": 5.0, "rule": 10.0}])
    marked = "under your own threshold threshold=5 (the rule says 10)"
    for name in ("report.html", "report.md"):
        assert (again.parent / name).read_text().count(marked) == 3  # at the top, in the table, in its section
        assert marked not in (tmp_path / name).read_text()
    assert (again.parent / "figures" / "crossover.png").exists()


# Two directories side by side.


def put_comparison(root: pathlib.Path, ratio: float, place: Row, corpus: str) -> pathlib.Path:
    put_pair(root, ratio, place=place)
    for arm, loss in ((JOB, 2.0), (LSTM, 1.0 + ratio)):
        put_learning(root, arm.replace(length=256, batch=16), loss, place, corpus)
    describe(root, "quick", True, ["attention", "lstm"], place)
    (root / "compare.flags").write_text(f"--dtype={'bfloat16' if place is GPU else 'float32'}\n--out={root}\n")
    return root


def test_two_directories_stand_side_by_side(tmp_path: pathlib.Path):
    first = put_comparison(tmp_path / "a", 0.5, CPU, "same")
    second = put_comparison(tmp_path / "b", 20.0, GPU, "same")
    assert diff.write(records.read(first), records.read(second), tmp_path) == tmp_path / "diff.html"
    text, shown = (tmp_path / "diff.md").read_text(), Page((tmp_path / "diff.html").read_text()).text
    assert "parallelism (untested in A, holds in B)" in text
    assert "parallelism (untested in A, holds in B)" in shown
    for directory in (first, second):
        assert verdicts.headline(records.read(directory)) in " ".join(text.split())
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    [ratio] = [line for line in lines if line[3:4] == ["tokens/s, attention / LSTM, T=1024, equal batch"]]
    assert [cell.split()[0] for cell in ratio[4:]] == ["0.500x", "20.0x", "40.0x"]
    assert ["device", "the CPU (Some CPU)", "1 x NVIDIA H200"] in lines
    assert ["--dtype", "float32", "bfloat16"] in lines
    assert not [line for line in lines if line[0] in ("--out", "scale")]
    [loss] = [line for line in lines if line[1:2] == ["lstm"]]
    assert loss[3:] == ["2.64", "30.8", "11.6x"]


def test_rows_of_two_corpora_are_never_compared(tmp_path: pathlib.Path):
    first, second = (put_comparison(tmp_path / name, 20.0, CPU, name) for name in ("one", "other"))
    diff.write(records.read(first), records.read(second), tmp_path)
    text = (tmp_path / "diff.md").read_text()
    assert "rows of two corpora are never compared: sha256 one in A, other in B" in text
    assert "bits per byte A" not in text


# In a browser.

MEASURE = """<script type="module">
const charts = document.querySelectorAll(".chart").length, root = document.documentElement;
const look = setInterval(() => {
  const drawn = document.querySelectorAll("svg.marks").length;
  if (drawn < charts) return;
  clearInterval(look);
  const asked = performance.getEntriesByType("resource").map(entry => entry.name);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  parent.postMessage({drawn, asked, dark, width: innerWidth, room: root.clientWidth, taken: root.scrollWidth}, "*");
}, 50);
</script>"""
WIDTHS = (1280, 420)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_draws_every_figure_without_complaint(tmp_path: pathlib.Path, dark: bool):
    """In frames, for a window has a least width: no message on the console, nothing asked of a network, no overflow."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"the page was not opened: none of {', '.join(names)} is installed")
    shown = report.compose(with_findings(tmp_path, **seven()))
    (tmp_path / "report.html").write_text(shown.html().removesuffix("</body>\n</html>\n") + MEASURE)
    frames = "".join(
        f'<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>' for width in WIDTHS
    )
    listen = (
        "const found = []; onmessage = event => { found.push(event.data); document.title = JSON.stringify(found); }"
    )
    (tmp_path / "frames.html").write_text(f"<!doctype html><title></title><script>{listen}</script>{frames}")
    quiet = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
    quiet += ("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}/own")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [browser, "--headless", *quiet, scheme, "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*command, "--dump-dom", (tmp_path / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    [title] = re.findall("<title>(.*?)</title>", done.stdout)
    frames = {frame["width"]: frame for frame in json.loads(unescape(title))}
    assert set(frames) == set(WIDTHS)
    for frame in frames.values():
        assert frame["drawn"] == len(shown.charts)
        assert [name for name in frame["asked"] if not name.startswith("data:")] == []
        assert frame["dark"] == dark
        assert frame["taken"] <= frame["room"]


# launch.report


def launch(*argv: str) -> subprocess.CompletedProcess[str]:
    root = pathlib.Path(__file__).parent.parent
    command = [sys.executable, "-m", "launch.report", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def test_help_comes_without_jax_or_vega():
    program = "import sys, launch.report; print({'jax', 'scipy', 'vl_convert'} & set(sys.modules))"
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set()"
    assert "directory of the records" in launch("--help").stdout


@pytest.mark.parametrize(
    ("threshold", "why"),
    [
        ("parallelism.treshold=5", "parallelism.threshold=10.0, parallelism.length=1024"),
        ("parallelism.threshold=much", "wanted claim.name=number"),
        ("parallelism.threshold=nan", "wanted claim.name=number"),
        ("parallelism.threshold", "wanted claim.name=number"),
        ("parallelism.length=1.5", "wants int"),
    ],
)
def test_a_threshold_that_is_not_there_is_refused(tmp_path: pathlib.Path, threshold: str, why: str):
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    with pytest.raises(ValueError, match=re.escape(why)):
        records.read(tmp_path, [threshold])


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path: pathlib.Path):
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    out, nothing = str(tmp_path), str(tmp_path / "nothing")
    for argv, why in (
        ([f"--out={nothing}"], "no records in"),
        ([f"--out={out}", "--threshold=paralelism.threshold=5"], "parallelism.threshold=10.0, parallelism.length=1024"),
        (["--diff", out], "--diff wants two directories; got 1"),
        (["--diff", out, nothing], "no records in"),
        (["--diff", out, out, f"--out={out}"], "--to says where diff.html is written"),
        (["--diff", out, out, "--threshold=parallelism.threshold=5"], "leave it or --diff out"),
        ([out], "unexpected argument"),
    ):
        done = launch(*argv)
        assert (done.returncode, done.stderr.count("\n")) == (70, 1), argv
        assert why in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["compare.json"]


def test_thresholds_and_diff_from_the_command_line(tmp_path: pathlib.Path):
    first, second = tmp_path / "a", tmp_path / "b"
    for root, ratio in ((first, 8.0), (second, 20.0)):
        put_pair(root, ratio)
        describe(root, "quick", True, ["attention", "lstm"], GPU)
    done = launch(f"--out={first}", "--threshold=parallelism.threshold=5", "--threshold=parallelism.length=512")
    assert done.stdout.splitlines()[0] == f"report: {first}/rejudged/report.html"
    done = launch("--diff", str(first), str(second))
    assert (done.returncode, done.stdout) == (0, f"side by side: {second}/diff.html\n")
    launch(f"--diff={first}", f"--diff={second}", f"--to={tmp_path / 'c'}")
    assert (tmp_path / "c" / "diff.md").read_text() == (second / "diff.md").read_text()
