"""launch.inference: its cells, the section of the report that shows them, and all of it run once."""

import dataclasses
import pathlib

import pytest
from programs import command, run
from test_report import CPU, put, section

from suite import parts
from suite.job import Cell
from suite.report import page, records, verdicts
from suite.scale import SCALES
from suite.sweep import store
from suite.sweep.record import Row
from suite.sweep.serving import Serving

SERVING = Serving(
    arms=("attention", "lstm"),
    job=SCALES["laptop"].job.replace(batch=1, task="recall:pairs=2,vocab=16"),
    shortest=64,
    longest=256,
    longest_trained=256,
    most_sequences=8,
    most_tokens=1024,
    memory_bytes=10**8,
    processes=2,
)


def of(measure: str, cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if parts.split(cell.measure)[0] == measure]


def test_what_is_compared_by_ratios_is_timed_in_turns_by_every_arm():
    for measure in ("first_token", "token_latency", "step_time"):
        groups: dict[tuple[str, int, str], list[str]] = {}
        for cell in of(measure, SERVING.cells([])):
            assert cell.interleave_with
            groups.setdefault((cell.interleave_with, cell.repeat, cell.measure), []).append(cell.job.arm)
        assert set(map(tuple, groups.values())) == {("attention", "lstm")}
        assert {repeat for _, repeat, _ in groups} == {0, 1}


def test_what_fills_the_memory_runs_alone_and_knows_how_much_counts():
    for measure in ("throughput", "largest"):
        cells = of(measure, SERVING.cells([]))
        assert [(cell.job.arm, cell.interleave_with) for cell in cells] == [("attention", ""), ("lstm", "")]
        assert {parts.knobs("suite.measures", cell.measure)["memory_bytes"] for cell in cells} == {10**8}


def test_a_steps_tokens_are_constant_in_one_half_and_its_batch_in_the_other():
    steps = {(cell.job.length, cell.job.batch) for cell in of("step_time", SERVING.cells([]))}
    assert steps == {(64, 4), (128, 2), (256, 1), (64, 1), (128, 1)}
    on_two = {(cell.job.length, cell.job.batch) for cell in of("step_time", SERVING.on(2).cells([]))}
    assert on_two == {(64, 8), (128, 4), (256, 2), (64, 2), (128, 2)}


def test_of_every_step_that_is_timed_the_chain_is_known():
    cells = SERVING.cells([])
    assert {cell.job for cell in of("chain", cells)} == {cell.job for cell in of("step_time", cells)}
    in_parts = dataclasses.replace(SERVING, job=SERVING.job.replace(microbatch=1))
    assert not of("chain", in_parts.cells([])), "a chain is of a whole batch"


def test_no_cell_is_asked_for_twice_and_what_was_measured_asks_for_no_more():
    cells = SERVING.cells([])
    assert len(cells) == len(set(cells))
    assert SERVING.cells([{"measure": "size"}]) == cells
    assert {cell.job.match_to for cell in cells if cell.job.arm == "lstm"} == {SERVING.job.mixer}


def reading(seconds: float, last: int) -> list[Row]:
    """Rows of reading contexts, up to the last one that fits."""
    rows: list[Row] = []
    for context in (64, 128, 256):
        at = {"phase": "first_token", "context": context, "sequences": 1}
        if context > last:
            return [*rows, {**at, "outcome": "oom"}]
        at |= {"chunk": 64, "form": "chunks"}
        rows.append({**at, "phase": "memory", "state_bytes": 4 * context, "held_bytes": 9 * context})
        rows += [{**at, "turn": turn, "first_token_seconds": seconds * context} for turn in (0, 1)]
    return rows


def latency(seconds: float) -> list[Row]:
    ends = {"median_seconds": seconds, "p95_seconds": 2 * seconds, "slowest_seconds": 3 * seconds}
    at = {"phase": "latency", "sequences": 1, "decoded": 40, **ends}
    return [{**at, "context": context, "turn": turn} for context in (64, 128) for turn in (0, 1)]


def decoding(is_lstm: bool) -> list[Row]:
    at = {"phase": "throughput", "context": 64}
    rows = [{**at, "sequences": n, "turn": 0, "decoded": 80 * n, "decode_seconds": 0.1} for n in (1, 2)]
    return rows if is_lstm else [*rows, {**at, "sequences": 4, "outcome": "oom"}]


def fitting() -> list[Row]:
    at = {"memory_limit": 10**8, "held_bytes": 10**7, "ran_seconds": 0.1, "grid": 128, "looked_to": 2**17}
    return [
        {"phase": "train_context", "sequences": 1, "largest": 4096, "beyond": 4352, **at},
        {"phase": "decode_context", "sequences": 1, "largest": 2**17, **at},
        {"phase": "decode_sequences", "context": 64, "outcome": "oom", "memory_limit": 10**8},
    ]


def rows_of(cell: Cell) -> list[Row]:
    """Rows as the measure of a cell writes them."""
    is_lstm = cell.job.arm == "lstm"
    match parts.split(cell.measure)[0]:
        case "first_token":
            constant = "tokens=" in cell.measure
            return reading(1e-5 if is_lstm else 1e-4, 256 if is_lstm or constant else 128)
        case "token_latency":
            return latency(1e-4 if is_lstm else 2e-4)
        case "throughput":
            return decoding(is_lstm)
        case "largest":
            return fitting()
        case "step_time":
            seconds = 1e-6 * cell.job.length * cell.job.batch * (2 if is_lstm else 1)
            times = {"burst_seconds": 5 * seconds, "fenced_seconds": seconds}
            return [{"phase": "block", "turn": 0, "calls": 5, "tokens": 9, **times}]
    return []


def put_all(root: pathlib.Path) -> records.Comparison:
    name, content = SERVING.describe(CPU, ["--arms=attention,lstm"])
    (root / name).write_text(content)
    for cell in SERVING.cells([]):
        if rows := rows_of(cell):
            put(root, cell.job, cell.measure, rows, CPU, cell.repeat, cell.interleave_with)
    return records.read(root)


def test_the_report_has_a_figure_of_each_quantity_and_says_what_did_not_fit(tmp_path: pathlib.Path):
    comparison = put_all(tmp_path)
    assert not comparison.problems
    blocks = section(comparison, "Inference (not judged)")
    charts = {block.name: block for block in blocks if isinstance(block, page.Chart)}
    assert "attention: 0.0128 at 128; lstm: 0.00256 at 256" in charts["inference_first_token"].alternative
    assert "Crosses: no number" in charts["inference_first_token"].note
    assert "attention: 0.000200 at 128" in charts["inference_latency"].alternative
    assert "95th percentile" in charts["inference_latency"].note
    assert "attention: 1,600 at 2" in charts["inference_throughput_64"].alternative
    assert "attention: 0.000256 at 256; lstm: 0.000512 at 256" in charts["inference_step_time"].alternative
    assert "inference_prefill" in charts
    [largest] = [block for block in blocks if isinstance(block, page.Table) and "longest trained" in block.columns]
    assert largest.rows[0] == (
        *("attention", "100 MB", "4,096 (4,352 not), 1 at once", ""),
        *("at least 131,072, 1 at once", "out of memory"),
    )
    commands = [line for block in blocks if isinstance(block, page.Commands) for line in block.lines]
    assert "python -m launch.inference --arms=attention,lstm" in commands


def test_its_headline_has_the_fastest_and_the_slowest_and_no_claim_is_asked(tmp_path: pathlib.Path):
    comparison = put_all(tmp_path)
    assert not comparison.judged
    said = verdicts.headline(comparison)
    assert "the first token after 256 tokens comes after 2.56 ms (lstm)" in said
    assert "takes 100 µs (lstm) to 200 µs (attention)" in said


def test_what_was_asked_and_is_damaged_is_a_problem_and_no_crash(tmp_path: pathlib.Path):
    put_all(tmp_path)
    (tmp_path / "inference.json").write_text('{"arms": [1], "command": []}')
    comparison = records.read(tmp_path)
    assert [problem.where for problem in comparison.problems] == ["inference.json"]
    assert section(comparison, "Inference (not judged)")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_command_measures_two_arms_and_draws_them(tmp_path: pathlib.Path):
    sizes = ["--shortest=16", "--longest=32", "--longest_trained=32", "--most_sequences=2", "--most_tokens=64"]
    job = ["--task=recall:pairs=2,vocab=16", "--width=16", "--depth=1", "--processes=1", "--memory_bytes=3000000"]
    asked = command("inference", "--arms=attention,lstm", *sizes, *job, f"--out={tmp_path}")
    ended = run(asked, seconds=800)
    assert ended.returncode == 0, ended.stderr
    rows = store.load(tmp_path)
    measured = {parts.split(row["measure"])[0] for row in rows}
    assert measured == {"peak", "size", "first_token", "token_latency", "throughput", "largest", "step_time", "chain"}
    assert "longest decoded" in (tmp_path / "report.md").read_text()
    again = run(asked, seconds=300)
    assert again.returncode == 0, again.stderr
    assert len(store.load(tmp_path)) == len(rows)
