"""Advice: which arm to take at a context, from rows alone; what was not measured is said, with its command."""

import dataclasses
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from suite import learning_rates, machine, parts
from suite.job import Job, slug
from suite.judging import statistics
from suite.report import advice, costs, records
from suite.report.costs import Question
from suite.sweep import exit_codes, store
from suite.sweep.record import Record, Row, stem

ROOT = pathlib.Path(__file__).parent.parent
HERE = {"platform": "cpu", "device_kind": "Some CPU", "n_devices": 1, "place": "some-cpu-2-cores-data1"}
ATTENTION = Job(width=64, batch=2)
LSTM = ATTENTION.replace(mixer="lstm", match_to="attention")
GRU = ATTENTION.replace(mixer="gru", match_to="attention")


def put(
    out: pathlib.Path, job: Job, measure: str, rows: Iterable[Row], repeat: int = 0, group: str = "", place: Row = HERE
) -> None:
    """Writes the rows of a cell as a worker does."""
    placed = bool(parts.constant("suite.measures", measure, "PLACED"))
    shared: Row = {"run_id": job.id, "arm": job.arm, "measure": measure, "repeat": repeat, "interleave_with": group}
    shared |= {"placed": placed, "width": 56 if job.match_to else job.width, **place}
    record = Record(store.open_run(out, job), stem(measure, place["place"] if placed else "", repeat, group))
    for row in rows:
        record.append({"outcome": "ok", **row, **shared})


def steps(job: Job, seconds: float) -> list[Row]:
    """A step of so many seconds a token."""
    tokens = job.batch * job.length
    memory = {"argument_bytes": 10**6, "output_bytes": 10**6, "alias_bytes": 10**6, "temp_bytes": 55 * 10**6}
    took = [seconds * tokens * (1 + turn / 50) for turn in (-1, 0, 1)]
    blocks = [{"phase": "block", "turn": turn, "calls": 1, "tokens": tokens} for turn in range(3)]
    timed = [block | {"burst_seconds": of_block} for block, of_block in zip(blocks, took, strict=True)]
    return [{"phase": "compile", "compile_seconds": 1.0, "cached": False, **memory}, *timed]


def put_steps(out: pathlib.Path, seconds: dict[Job, float], processes: int = 3, **changes: Any) -> None:
    """Steps of arms in turns; from process to process all of them drift by 20 %, and one arm to another by 1 %."""
    for repeat in range(processes):
        for number, (job, of_arm) in enumerate(seconds.items()):
            drift = math.exp(0.2 * repeat + 0.01 * number * (repeat - 1))
            put(out, job, "step_time:blocks=3", steps(job, of_arm * drift), repeat, f"length {job.length}", **changes)


def decoded(context: int, sequences: int, seconds: float) -> list[Row]:
    at = {"context": context, "sequences": sequences}
    blocks = [{"phase": "decode", "turn": turn, "decoded": 8, "decode_seconds": 8 * seconds, **at} for turn in range(3)]
    memory = {"phase": "memory", "capacity": context + 8, "state_bytes": 1000, **at}
    return [{"phase": "prefill", "read": context, "chunk": 64, "prefill_seconds": 2.0, **at}, memory, *blocks]


def answered(accuracy: float) -> list[Row]:
    at = {"step": 200, "tokens": 9, "seconds": 1.0, "loss": 0.5, "examples": 64, "accuracy": accuracy}
    return [{"phase": "test", **at, "final_accuracy": accuracy}]


def put_recall(out: pathlib.Path, job: Job, distance: int, accuracies: Iterable[float]) -> None:
    recall = job.replace(task=f"recall:pairs=1,distance={distance}", length=distance + 1)
    for seed, accuracy in enumerate(accuracies):
        put(out, recall.replace(seed=seed), "learning", answered(accuracy))


def told(out: pathlib.Path, context: int, generate: int = 256, batch: int = 2, place: str = "") -> dict[str, list[str]]:
    """The answers by their titles."""
    answers: dict[str, list[str]] = {"": []}
    title = ""
    for line in advice.text(records.read_unjudged(out, place), Question(context, generate, batch)):
        if line.startswith("  "):
            answers[title].append(line.strip())
        elif line:
            title = line.partition(" (")[0].partition(",")[0]
            answers[title] = []
    return answers


def commands(answers: dict[str, list[str]], said: str) -> list[list[str]]:
    """The commands that a line names by their numbers."""
    numbers = re.findall(r"\[\d+\]", said)
    listed = dict(line.split(" ", 1) for line in answers["Commands that make the rows again"])
    return [shlex.split(listed[number]) for number in numbers]


def advise(out: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    argv = [sys.executable, "-m", "launch.advise", f"--out={out}", *flags]
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_fastest_arm_is_named_with_ratios_of_turns_side_by_side(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 8e-5, LSTM: 1e-5, GRU: 2e-5})
    fastest, second, third, conditions, *_ = told(tmp_path, context=256)["Trains fastest"]
    # From process to process the machine is 20 % slower: that is told of the speed, and is not in the ratio.
    assert fastest.startswith("lstm: 81,900 tokens/s (three processes, 52 % apart) [")
    assert second.startswith("gru takes 2 times (95 % 1.95 to 2.05) as long: 40,900 tokens/s (")
    assert third.startswith("attention takes 8.00 times (95 % 7.80 to 8.20) as long: ")
    assert (
        conditions == "(256 tokens and batch 2; on text, width 64, depth 2, float32, at equal parameters, by step_time)"
    )


def test_a_statement_has_the_command_of_its_row(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 1e-4, LSTM: 1e-5})
    answers = told(tmp_path, context=256)
    [command] = commands(answers, answers["Trains fastest"][0])
    assert command[:3] == ["python", "-m", "launch.job"]
    assert {*LSTM.flags(), "--measures=step_time:blocks=3", f"--out={tmp_path}"} <= set(command)


def test_arms_that_are_not_told_apart_are_not_ranked_beyond_doubt(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 1.003e-5, LSTM: 1e-5})
    _, second, *_ = told(tmp_path, context=256)["Trains fastest"]
    assert re.match(r"attention takes 1.00 times \(95 % 0.9\d+ to 1.0\d+\) as long, not beyond doubt: ", second)


def test_of_one_process_there_is_no_interval(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 3e-5, LSTM: 1e-5}, processes=1)
    fastest, second, *_ = told(tmp_path, context=256)["Trains fastest"]
    assert "(one process) [" in fastest
    assert second.startswith("attention takes 3.0")
    assert " as long (no interval): " in second


def test_arms_of_fresh_processes_that_took_no_turns_have_an_interval_too(tmp_path: pathlib.Path) -> None:
    for repeat, drift in enumerate((0.95, 1.0, 1.06)):
        put(tmp_path, ATTENTION, "step_time", steps(ATTENTION, 3e-5 * drift), repeat)
        put(tmp_path, LSTM, "step_time", steps(LSTM, 1e-5 / drift), repeat)
    _, second, *_ = told(tmp_path, context=256)["Trains fastest"]
    [(low, high)] = re.findall(r"3\.0\d times \(95 % ([\d.]+) to ([\d.]+)\)", second)
    assert 2 < float(low) < 3 < float(high) < 4


def test_an_interval_is_that_of_the_statistics_that_claims_rest_on(tmp_path: pathlib.Path) -> None:
    one, other = (
        [
            costs.Cost(value, costs.Point(8, 2), {"interleave_with": "length 8", "repeat": repeat})
            for repeat, value in enumerate(values)
        ]
        for values in ((1.0, 1.1, 1.3), (2.0, 2.1, 2.2))
    )
    ratio = costs.Sample(tuple(one)).over(costs.Sample(tuple(other)), exact=False)
    logs = [math.log(first.value / second.value) for first, second in zip(one, other, strict=True)]
    assert ratio.log == pytest.approx(statistics.t_interval(logs), rel=1e-12)


def test_quantiles_are_those_of_the_statistics_that_claims_rest_on() -> None:
    for dof, quantile in costs.T_QUANTILES.items():
        assert quantile == pytest.approx(statistics.t_quantile(dof), rel=1e-12)


def test_a_turn_is_named_with_its_length(tmp_path: pathlib.Path) -> None:
    # Attention's cost a token grows as the length: it crosses the LSTM's at 256 tokens, the GRU's nowhere.
    for length in (64, 128, 512, 1024):
        jobs = [job.replace(length=length) for job in (ATTENTION, LSTM, GRU)]
        put_steps(tmp_path, dict(zip(jobs, (1e-5 * length / 256, 1e-5, 1e-4), strict=True)))
    turn, never, *_ = told(tmp_path, context=512)["Trains fastest"][4:]
    [bounds] = re.findall(
        r"It turns: attention is ahead of lstm below (\d+) tokens \(95 % (\d+) to (\d+)\), behind above\. \[", turn
    )
    at, low, high = map(int, bounds)
    assert 250 <= low < at < high <= 262
    assert at == pytest.approx(256, abs=2)  # rounded, and of arms that drift by 1 %
    assert never.startswith("No turn against gru from 64 to 1,024 tokens. [")
    # Asked below the turn, it is told from the other side.
    fastest, *_ = told(tmp_path, context=64)["Trains fastest"]
    assert fastest.startswith("attention: ")


def test_a_context_at_which_arms_are_not_told_apart_is_named_where_none_turns(tmp_path: pathlib.Path) -> None:
    for length, of_attention in ((64, 1.003e-5), (512, 4e-5)):
        put_steps(tmp_path, {ATTENTION.replace(length=length): of_attention, LSTM.replace(length=length): 1e-5})
    never = told(tmp_path, context=512)["Trains fastest"][3]
    assert never.startswith("No turn against attention from 64 to 512 tokens, not beyond doubt at 64. [")


def test_outside_what_was_measured_the_nearest_is_named_with_the_command_that_measures_it(
    tmp_path: pathlib.Path,
) -> None:
    for length in (128, 1024):
        put_steps(tmp_path, {job.replace(length=length): cost for job, cost in ((ATTENTION, 2e-5), (LSTM, 1e-5))})
    answers = told(tmp_path, context=32768, batch=8)
    said, fastest, *_ = answers["Trains fastest"]
    nearest = "the nearest that was: 1,024 tokens and batch 2."
    assert said.startswith(f"Not measured at 32,768 tokens and batch 8 (attention and lstm); {nearest}")
    assert fastest.startswith("lstm: ")
    wanted = commands(answers, said)
    flags = {"--length=32768", "--batch=8", f"--out={tmp_path}", "--width=64"}
    assert all(flags <= set(command) for command in wanted)
    assert [job for job in (["--mixer=lstm", "--match_to=attention"], []) if set(job) <= set(wanted[1])]
    # One command measures all that lacks of an arm: decoding was never measured, and is by the same.
    assert commands(answers, answers["Decodes fastest"][0]) == wanted
    [measures] = [flag for flag in wanted[0] if flag.startswith("--measures=")]
    specs = parts.split_list(measures.removeprefix("--measures="))
    assert [parts.split(spec)[0] for spec in specs] == ["step_time", "decode", "size"]
    assert parts.knobs("suite.measures", specs[1]) | {
        "shortest": 32768,
        "longest": 32768,
        "batch": 8,
        "tokens": 256,
    } == (parts.knobs("suite.measures", specs[1]))


def test_a_turn_beyond_what_was_measured_is_an_extrapolation_and_said_to_be_sought(tmp_path: pathlib.Path) -> None:
    for length in (64, 128):
        jobs = [job.replace(length=length) for job in (ATTENTION, LSTM)]
        put_steps(tmp_path, dict(zip(jobs, (1e-5 * length / 256, 1e-5), strict=True)))
    answers = told(tmp_path, context=1024, batch=4)
    beyond, never, sought = answers["Trains fastest"][4:]
    [bounds] = re.findall(
        r"By extrapolation alone, attention and lstm cross at (\d+) tokens \(95 % (\d+) to (\d+)\)\. \[", beyond
    )
    at, low, high = map(int, bounds)
    assert 240 <= low < at < high <= 272
    assert never.startswith("No turn against lstm from 64 to 128 tokens. [")
    assert sought.startswith("Where attention and the others cross from 64 to 1,024 tokens is found by [")
    [command] = commands(answers, sought)
    code = (
        "import sys; from absl import flags; from launch import crossover; flags.FLAGS(sys.argv);"
        "[asked] = crossover.chosen().questions;"
        "print(asked.quantity, asked.arms, asked.shortest, asked.longest, [job.arm for job in asked.jobs],"
        "asked.jobs[0].width, asked.jobs[0].batch)"
    )
    argv = [sys.executable, "-c", code, *command[3:]]
    found = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert found == "step_time ('attention', 'lstm') 64 1024 ['attention', 'lstm'] 64 4\n"


def test_an_arm_that_lacks_alone_is_named(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 2e-5, LSTM: 1e-5})
    put_steps(tmp_path, {GRU.replace(length=64): 1e-5, LSTM.replace(length=64): 1e-5})
    said, fastest, *_ = told(tmp_path, context=256)["Trains fastest"]
    assert said.startswith("Not measured at 256 tokens and batch 2 (gru). [")
    assert fastest.startswith("lstm: ")


def test_rows_under_other_conditions_are_told_apart_and_never_pooled(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 2e-5, LSTM: 1e-5, GRU: 3e-5})
    put_steps(tmp_path, {job.replace(width=128): cost for job, cost in ((ATTENTION, 1e-5), (LSTM, 4e-5))})
    put_steps(tmp_path, {job.replace(dtype="bfloat16"): cost for job, cost in ((ATTENTION, 1e-5), (LSTM, 8e-5))})
    fastest, second, third, *rest = told(tmp_path, context=256)["Trains fastest"]
    assert [line[:17] for line in (fastest, second, third)] == [
        "lstm: 81,900 toke",
        "attention takes 2",
        "gru takes 3.00 ti",
    ]
    others = [line for line in rest if line.startswith("Under other conditions")]
    assert sorted(re.findall(r"lstm takes (\S+) times", "".join(others))) == ["4.00", "8.00"]
    assert any("width 128, depth 2, float32" in line for line in others)
    assert any("width 64, depth 2, bfloat16" in line for line in others)


def test_an_arm_as_wide_is_no_arm_of_equal_parameters(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 2e-5, LSTM: 1e-5})
    put_steps(tmp_path, {ATTENTION.replace(mixer="mingru"): 1e-6})
    lines = told(tmp_path, context=256)["Trains fastest"]
    assert lines[0].startswith("lstm: ")
    [other] = [line for line in lines if line.startswith("Under other conditions")]
    assert "at equal width, by step_time): mingru: " in other


def test_reading_and_decoding_add_up_to_an_answer(tmp_path: pathlib.Path) -> None:
    for job, seconds in ((ATTENTION, 0.004), (LSTM, 0.001)):
        put(tmp_path, job, "decode:longest=1024", decoded(1024, 1, seconds))
    answers = told(tmp_path, context=1024, generate=1000, batch=1)
    assert answers["Reads fastest"][0].startswith("attention: 2 s for 1,024 tokens (one process)")
    assert answers["Decodes fastest"][0].startswith("lstm: 1.00 ms a token (one process)")
    assert answers["Answers fastest"][0].startswith("lstm: 3.00 s (one process)")
    assert answers["Answers fastest"][1].startswith(
        "attention takes 2.00 times as long (no interval): 6 s (one process)"
    )


def test_a_context_that_was_read_in_part_tells_nothing_of_reading(tmp_path: pathlib.Path) -> None:
    rows = [row | ({"read": 128} if row["phase"] == "prefill" else {}) for row in decoded(1024, 1, 0.001)]
    put(tmp_path, LSTM, "decode:longest=1024,read=128", rows)
    answers = told(tmp_path, context=1024, batch=1)
    assert answers["Reads fastest"][0].startswith("Not measured at 1,024 tokens and batch 1 (lstm). [")
    assert answers["Decodes fastest"][0].startswith("lstm: ")


def test_the_loss_after_equal_seconds_is_compared_seed_by_seed(tmp_path: pathlib.Path) -> None:
    for job, loss in ((ATTENTION, 2.0), (LSTM, 2.2)):
        for seed, of_data in enumerate((0.8, 1.0, 1.3)):
            ended = job.replace(budget_seconds=30.0, seed=seed)
            put(
                tmp_path,
                ended,
                "learning",
                [row | {"loss": loss * of_data * (1 + seed / 200)} for row in answered(0.5)],
            )
        probe = job.replace(budget_seconds=30.0, learning_rate=1e-4)  # at another rate: no seed of the arm's own
        put(tmp_path, probe, "learning", answered(0.5))
        put(tmp_path, job, "learning", answered(0.5))  # ended by its steps
    answers = told(tmp_path, context=512)
    _, best, other, conditions, sought = answers["Learns most in equal seconds of training"]
    assert best.startswith("attention: 2.04 nats a token (three seeds, 64 % apart)")
    assert other.startswith("lstm has 1.10 times the loss: 2.24 nats a token (three seeds, 64 % apart)")
    assert "budget seconds 30.0" in conditions
    [command] = commands(answers, sought)
    wanted = {"--quantity=loss_at_equal_seconds", "--from=256", "--to=512", "--budget_seconds=30.0", "--steps=200"}
    assert wanted <= set(command)


def test_the_first_token_and_each_after_it_are_told_as_who_waits_has_them(tmp_path: pathlib.Path) -> None:
    at = {"context": 1024, "sequences": 4}
    for job, first, each in ((ATTENTION, 1.0, 0.02), (LSTM, 2.0, 0.01)):
        for repeat in range(2):
            read = [{"phase": "first_token", "turn": turn, "first_token_seconds": first, **at} for turn in range(3)]
            put(tmp_path, job, "first_token:batch=4", read, repeat, "first token")
            waited = [{"phase": "latency", "turn": turn, "median_seconds": each, **at} for turn in range(3)]
            put(tmp_path, job, "token_latency:batch=4", waited, repeat, "latency")
    put(tmp_path, LSTM, "throughput", [{"phase": "throughput", "turn": 0, "decoded": 64, "decode_seconds": 0.08, **at}])
    answers = told(tmp_path, context=1024, generate=200, batch=4)
    first, *_, conditions = answers["Reads fastest"]
    assert first.startswith("attention: 1 s for 1,024 tokens (two processes")
    assert conditions.endswith("at equal parameters, by first_token)")
    each, *_ = answers["Decodes fastest"]
    assert each.startswith("lstm: 10.0 ms a token, 400 tokens/s of all sequences (two processes")
    whole, slower, *_ = answers["Answers fastest"]
    assert whole.startswith("lstm: 4 s (two processes")
    assert slower.startswith("attention takes 1.25 times ")


def test_the_largest_that_was_looked_for_fits_and_the_next_does_not(tmp_path: pathlib.Path) -> None:
    largest = {"phase": "train_context", "sequences": 2, "largest": 4096, "held_bytes": 10**9, "beyond": 4224}
    put(tmp_path, ATTENTION, "largest", [largest])
    put(tmp_path, LSTM, "largest:memory_bytes=1000000000", [largest])
    fits, *_ = told(tmp_path, context=4096)["Fits: a training step"]
    assert fits.startswith(
        "Fits at 4,096 tokens and batch 2, as this ran: attention 4,096 tokens and batch 2 (1 GB); lstm"
    )
    refused, unknown, *_ = told(tmp_path, context=8192)["Fits: a training step"]
    assert "as this did not run: attention 4,224 tokens and batch 2 (out of memory) [" in refused
    assert unknown.startswith("Not measured at 8,192 tokens and batch 2; the most that ran: lstm 4,096")


def test_the_smallest_state_is_exact(tmp_path: pathlib.Path) -> None:
    for job, bytes_a_token in ((ATTENTION, 512), (LSTM, 0)):
        rows = [
            {"phase": "state", "context": at, "state_bytes": 1024 + bytes_a_token * at} for at in (256, 1024, 16384)
        ]
        put(tmp_path, job, "size", rows)
    smallest, other, _, never = told(tmp_path, context=16384)["Holds the smallest state of a sequence"]
    assert smallest.startswith("lstm: 1.02 kB [")
    assert other.startswith("attention holds 8,190 times as much: 8.39 MB [")
    assert never.startswith("No turn against attention from 256 to 16,384 tokens.")


def test_what_ran_fits_where_less_is_asked_and_what_was_refused_does_not_where_more_is(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {job.replace(length=1024): 1e-5 for job in (ATTENTION, LSTM)})
    put(tmp_path, ATTENTION.replace(length=2048), "step_time", [{"phase": "compile", "outcome": "oom"}])
    put(tmp_path, LSTM.replace(length=4096), "step_time", steps(LSTM, 1e-5))
    fits, *_ = told(tmp_path, context=512)["Fits: a training step"]
    assert fits.startswith(
        "Fits at 512 tokens and batch 2, as this ran: attention 1,024 tokens and batch 2 (56 MB); lstm "
    )
    lines = told(tmp_path, context=4096)["Fits: a training step"]
    assert lines[0].startswith(
        "Does not fit at 4,096 tokens and batch 2, as this did not run: "
        "attention 2,048 tokens and batch 2 (out of memory)"
    )
    assert lines[1].startswith("Fits at 4,096 tokens and batch 2, as this ran: lstm 4,096 tokens")
    unknown = told(tmp_path, context=8192)["Fits: a training step"][1]
    assert unknown.startswith(
        "Not measured at 8,192 tokens and batch 2; the most that ran: lstm 4,096 tokens and batch 2"
    )


def test_a_context_that_ran_out_of_memory_in_decoding_is_the_one_after_the_last(tmp_path: pathlib.Path) -> None:
    refused = {"phase": "prefill", "outcome": "oom"}
    put(tmp_path, ATTENTION, "decode:longest=16384", [*decoded(1024, 1, 0.001), refused])
    said = told(tmp_path, context=8192, batch=1)["Fits: decoding"][0]
    assert said.startswith(
        "Does not fit at 8,448 tokens and batch 1, as this did not run: attention 4,104 tokens and batch 1"
    )


def test_the_farthest_pair_that_most_seeds_recall_is_told(tmp_path: pathlib.Path) -> None:
    for distance, of_lstm in ((4, (1.0, 1.0, 1.0)), (48, (1.0, 0.1, 0.2))):
        put_recall(tmp_path, ATTENTION, distance, (1.0, 0.95, 0.2))
        put_recall(tmp_path, LSTM, distance, of_lstm)
    put_recall(tmp_path, GRU, 4, (0.1, 0.2))
    tuning = LSTM.replace(task="recall:pairs=1,distance=48", length=49, learning_rate=3e-3)
    for seed in learning_rates.SEEDS:  # which chose a rate, and are no trials
        put(tmp_path, tuning.replace(seed=seed), "learning", answered(1.0))
    answers = told(tmp_path, context=64)
    unmeasured, reached = answers["Recalls a pair from farthest back"]
    assert reached.startswith(
        "attention 48 (2/3 seeds), lstm 4 (3/3 seeds; 1/3 at 48), gru none (0/2 at 4) (on recall:pairs=1,"
    )
    assert unmeasured.startswith(
        "Not measured at 64 tokens (attention, lstm and gru); the nearest that was: 48 tokens;"
    )
    assert "--task=recall:pairs=1,distance=63" in commands(answers, unmeasured)[0]
    assert len(told(tmp_path, context=48)["Recalls a pair from farthest back"]) == 1


def test_trainings_of_more_steps_stand_apart(tmp_path: pathlib.Path) -> None:
    put_recall(tmp_path, ATTENTION, 48, (1.0, 1.0))
    put_recall(tmp_path, LSTM, 48, (0.1, 0.2))
    put_recall(tmp_path, LSTM.replace(steps=800), 48, (1.0, 1.0))
    first, longer = told(tmp_path, context=49)["Recalls a pair from farthest back"]
    conditions = "(on recall:pairs=1, width 64, depth 2, batch 2, steps"
    assert first.startswith(f"attention 48 (2/2 seeds), lstm none (0/2 at 48) {conditions} 200,")
    assert longer.startswith(f"lstm 48 (2/2 seeds) {conditions} 800,")


def test_lengths_beyond_the_trained_one_count_with_the_best_remedy(tmp_path: pathlib.Path) -> None:
    job = ATTENTION.replace(task="parity", length=20)
    for remedy, far in (("", 0.5), ("ntk", 0.97)):
        rows = [
            {"phase": "length", "eval_length": at, "examples": 64, "final_accuracy": accuracy, "remedy": remedy}
            for at, accuracy in ((20, 1.0), (80, far))
        ]
        put(tmp_path, job, f"length_accuracy:remedy={remedy}" if remedy else "length_accuracy", rows)
    [reached] = told(tmp_path, context=80)["Still answers at the greatest length"]
    assert reached.startswith("attention 80 (1/1 seeds) (on parity, width 64, depth 2, length 20,")


def test_the_context_that_still_helps_on_text_is_told(tmp_path: pathlib.Path) -> None:
    for job, nats in ((ATTENTION, (2.0, 1.9, 1.8, 1.8)), (LSTM, (2.0, 1.9, 1.895, 1.9))):
        rows = [
            {"phase": "context", "context": at, "turn": turn, "windows": 8, "nats": of_context + turn}
            for turn in range(2)
            for at, of_context in zip((16, 32, 64, 120), nats, strict=True)
        ]
        put(tmp_path, job.replace(length=128), "truncated_context", rows)
    [reached] = told(tmp_path, context=128)["Uses the longest context of text"]
    assert reached.startswith("attention 64 (1/1 seeds; 0/1 at 128), lstm 32 (1/1 seeds; 0/1 at 64)")


def test_rows_of_several_places_are_told_of_one(tmp_path: pathlib.Path) -> None:
    gpu = {"platform": "gpu", "device_kind": "Some GPU", "n_devices": 1, "place": "some-gpu-data1"}
    put_steps(tmp_path, {ATTENTION: 2e-5, LSTM: 1e-5})
    put_steps(tmp_path, {ATTENTION: 1e-7, LSTM: 1e-6}, place=gpu)
    with pytest.raises(ValueError, match=r"wanted --place=NAME, one of: some-cpu-2-cores-data1, some-gpu-data1"):
        told(tmp_path, context=256)
    assert told(tmp_path, context=256, place="some-gpu-data1")["Trains fastest"][0].startswith("attention: 8")
    assert told(tmp_path, context=256, place=HERE["place"])["Trains fastest"][0].startswith("lstm: 81,900")
    with pytest.raises(ValueError, match=r"no rows were taken at nowhere"):
        told(tmp_path, context=256, place="nowhere")


def test_of_several_places_this_machines_is_told(tmp_path: pathlib.Path) -> None:
    here = HERE | {"place": slug(f"{machine.cpu()} {machine.cores()} cores data1")}
    put_steps(tmp_path, {ATTENTION: 2e-5, LSTM: 1e-5})
    put_steps(tmp_path, {ATTENTION: 1e-6, LSTM: 1e-5}, place=here)
    assert told(tmp_path, context=256)["Trains fastest"][0].startswith("attention: ")


def test_without_rows_every_part_says_what_would_measure_it(tmp_path: pathlib.Path) -> None:
    for job in (ATTENTION, LSTM):
        store.open_run(tmp_path, job)
        put(tmp_path, job, "path", [{"phase": "path", "distance": 1, "reachable": True, "path": 9}])
    answers = told(tmp_path, context=256)
    listed = answers.pop("Commands that make the rows again")
    parts_of_the_question = [title for title, lines in answers.items() if lines]
    assert len(parts_of_the_question) == 11
    for title in parts_of_the_question:
        [said] = answers[title]
        assert re.match(r"Not measured at [\w ]+ \(attention and lstm\)", said), title
    # Timings, a training that ends by its seconds, and three ways to remember, of two arms.
    assert len(listed) == 10


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--context=0"], "--context"),
        (["--generate=70000"], "--generate"),
        (["--batch=many"], "--batch"),
        (["--place=nowhere"], "no rows were taken at nowhere; wanted --place=NAME, one of: some-cpu-2-cores-data1"),
        (["--out=/nowhere/at/all"], "no records in /nowhere/at/all; wanted the --out of a launch.compare"),
        (["lstm"], "unexpected argument 'lstm'"),
    ],
)
def test_wrong_flags_are_refused_in_a_line(tmp_path: pathlib.Path, flags: list[str], said: str) -> None:
    put_steps(tmp_path, {ATTENTION: 2e-5}, processes=1)
    done = advise(tmp_path, *flags)
    assert done.returncode == exit_codes.REFUSED
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_a_thousand_cells_are_advised_on_within_two_seconds(tmp_path: pathlib.Path) -> None:
    for number in range(1, 51):
        for job in (ATTENTION, LSTM):
            timed = job.replace(length=64 * number)
            put_steps(tmp_path, {timed: 1e-5})
            for repeat in range(4):
                put(tmp_path, timed, "decode:longest=64,shortest=64", decoded(64, 1, 1e-3), repeat)
            put_recall(tmp_path, job, 4 * number, [1.0] * 3)
    assert len(list(tmp_path.glob("runs/*/*.jsonl"))) == 1000
    # Processor time: the machine may have more to do.
    code = (
        "import resource, subprocess, sys; told = subprocess.run(sys.argv[1:], capture_output=True, text=True).stdout;"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime); print(told)"
    )
    argv = [sys.executable, "-c", code, sys.executable, "-m", "launch.advise", f"--out={tmp_path}", "--context=1024"]
    lines = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    seconds, answers = lines.split("\n", 1)
    assert "\nTrains fastest\n  Not measured at 1,024 tokens and batch 1 (attention and lstm)" in answers
    assert float(seconds) < 2


def test_advice_imports_no_jax(tmp_path: pathlib.Path) -> None:
    put_steps(tmp_path, {ATTENTION: 2e-5, LSTM: 1e-5})
    argv = [sys.executable, "-X", "importtime", "-m", "launch.advise", f"--out={tmp_path}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "suite.report.advice" in imported
    assert not {"jax", "scipy.stats"} & imported


def test_the_commands_are_of_jobs_that_can_be_run(tmp_path: pathlib.Path) -> None:
    for job in (ATTENTION, LSTM):
        put(tmp_path, job, "path", [{"phase": "path", "distance": 1, "reachable": True, "path": 9}])
    answers = told(tmp_path, context=4096, batch=8)
    listed = [line for lines in answers.values() for line in lines if line.startswith("Not measured")]
    for command in commands(answers, "".join(listed)):
        values = dict(flag.removeprefix("--").split("=", 1) for flag in command[3:])
        given = {field.name: type(field.default) for field in dataclasses.fields(Job) if field.name in values}
        fields: dict[str, Any] = {name: convert(values[name]) for name, convert in given.items()}
        job = Job(**fields)
        task, knobs = parts.load("suite.tasks", job.task)
        if parts.split(job.task)[0] != "text":
            task.Task(length=job.length, seed=0, **knobs)
        for spec in parts.split_list(values["measures"]):
            parts.knobs("suite.measures", spec)


@pytest.mark.slow
def test_the_commands_measure_what_was_not_measured(tmp_path: pathlib.Path) -> None:
    one_device = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    options: dict[str, Any] = {"cwd": ROOT, "check": True, "capture_output": True, "env": one_device}
    tiny = ["--mixer=lstm", "--width=16", "--depth=1", "--length=16", "--batch=2", "--measures=step_time:blocks=2"]
    subprocess.run([sys.executable, "-m", "launch.job", *tiny, f"--out={tmp_path}"], **options)
    answers = told(tmp_path, context=32, generate=4, batch=1)
    for _, *argv in commands(answers, answers["Trains fastest"][0]):
        subprocess.run([sys.executable, *argv], **options)
    answers = told(tmp_path, context=32, generate=4, batch=1)
    timed = [title for title in answers if title.endswith("fastest") or title.startswith(("Holds", "Fits"))]
    assert len(timed) == 7
    assert not [line for title in timed for line in answers[title] if line.startswith("Not measured")]
