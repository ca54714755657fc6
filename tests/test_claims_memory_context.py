"""The claims on memory at inference and on effective context, judged on made-up rows."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import planted
import pytest

from suite import claims, parts
from suite.claims import Finding, context_length, inference_memory
from suite.claims.inference_memory import SHARED
from suite.job import Job
from suite.judging import trials
from suite.judging.statistics import bootstrap, percentile_interval
from suite.scale import SCALES
from suite.sweep.record import Row

PLACE = {"platform": "cpu", "place": "some-cpu", "device_kind": "Some CPU", "n_devices": 1}
JOB = Job(width=64, depth=2, length=1024, batch=2)
WIDTHS = {"attention": 64, "lstm": 56, SHARED: 72}
CONTEXTS: tuple[int, ...] = (1024, 4096, 16384)


def row(job: Job, measure: str, repeat: int = 0, group: str = "", **facts: Any) -> Row:
    """A row as it is loaded: the job's fields, the conditions and what was measured."""
    return of_job(job) | {"measure": measure, "repeat": repeat, "interleave_with": group, "outcome": "ok"} | facts


@functools.cache
def of_job(job: Job) -> Row:
    facts = {"run_id": job.id, "arm": job.arm, "width": WIDTHS.get(job.arm, job.width), "reference_width": job.width}
    return dataclasses.asdict(job) | PLACE | facts


@functools.cache
def arm(mixer: str) -> Job:
    return JOB if mixer == "attention" else JOB.replace(mixer=mixer, match_to="attention")


# Memory at inference.

BYTES = {"attention": (1024, 8), "lstm": (0, 896), SHARED: (288, 8), "mingru": (0, 512), "attention:window=64": (0, 9)}


def sizes(mixer: str, contexts: tuple[int, ...] = (256, 1024, 2048, 4096, 8192, 16384), **changes: Any) -> list[Row]:
    """Bytes of one sequence's state: so many a token, and so many whatever the context."""
    slope, fixed = {**BYTES, **changes}[mixer]
    states = {context: slope * context + fixed for context in contexts}
    return [row(arm(mixer), "size", phase="state", context=at, state_bytes=value) for at, value in states.items()]


def decoding(
    mixer: str,
    seconds: Mapping[int, float],
    batch: int = 1,
    processes: int = 3,
    noise: float = 0.01,
    live: float = 1.0,
    **changes: tuple[int, int],
) -> list[Row]:
    """Turns that all drift alike, and an arm that drifts a little by itself; of the bytes, a share is live."""
    found = []
    for repeat in range(processes):
        for context, value in seconds.items():
            slope, fixed = {**BYTES, **changes}[mixer]
            shared = {"repeat": repeat, "interleave_with": f"decode B={batch}", "context": context, "sequences": batch}
            counters = (batch - 1) * 8 if fixed == 8 else 0
            held = int(live * (batch * (slope * (context + 16) + fixed) - counters))
            memory = {"phase": "memory", "capacity": context + 16, "state_bytes": held}
            found.append(row(arm(mixer), f"decode:batch={batch}", **shared, **memory))
            for turn in range(3):
                drift = (1 + 0.5 * turn) * (math.exp(noise * (repeat - 1)) if mixer != "lstm" else 1.0)
                took = {"decoded": 160, "decode_seconds": 160 * value * drift}
                found.append(row(arm(mixer), f"decode:batch={batch}", phase="decode", turn=turn, **shared, **took))
    return found


SLOW = {"attention": (2e-5, 8e-5, 32e-5), "lstm": (4e-5, 4e-5, 4e-5), SHARED: (1e-5, 2e-5, 3e-5)}


def decoded(batch: int = 1, **changes: Any) -> list[Row]:
    times = {mixer: dict(zip(CONTEXTS, values, strict=True)) for mixer, values in SLOW.items()}
    return [found for mixer in SLOW for found in decoding(mixer, times[mixer], batch, **changes)]


def all_sizes(*others: str, **changes: Any) -> list[Row]:
    return [found for mixer in (*SLOW, *others) for found in sizes(mixer, **changes)]


def test_bytes_as_the_formula_has_them_hold():
    finding = planted.finding(inference_memory, all_sizes() + decoded())
    assert (finding.verdict, finding.basis) == ("holds", "construction")
    assert "exactly 1,024" in finding.reason
    assert finding.controls[0].met


@pytest.mark.parametrize("changes", [{"lstm": (1, 896)}, {"attention": (1023, 8)}])
def test_a_byte_more_or_less_a_token_fails(changes: dict[str, Any]):
    finding = planted.finding(inference_memory, all_sizes(**changes) + decoded(**changes))
    assert (finding.verdict, finding.controls[0].met) == ("fails", True)
    assert "bytes a token from 1,024 to 2,048 tokens" in finding.reason


def test_one_step_that_is_off_fails_though_the_ends_are_right():
    rows = all_sizes() + decoded()
    [middle] = [row for row in rows if row.get("phase") == "state" and row["arm"] == "lstm" and row["context"] == 4096]
    middle["state_bytes"] += 4
    finding = planted.finding(inference_memory, rows)
    assert finding.verdict == "fails"
    assert "from 2,048 to 4,096" in finding.reason


def test_bfloat16_halves_a_cache_and_shared_keys_divide_it():
    halved = sizes("attention", attention=(512, 8))
    for found in halved:
        found["dtype"] = "bfloat16"
    assert planted.finding(inference_memory, halved + sizes("lstm") + decoded()).reason.startswith(
        "the LSTM's state grows by 0"
    )
    shared = planted.finding(inference_memory, sizes(SHARED) + sizes("lstm"))
    assert "exactly 288" in shared.reason  # where it is the only attention: 2 x 2 layers x 1 head x 18 x 4


def test_the_pair_and_the_range_must_be_there():
    assert planted.finding(inference_memory, []).verdict == "untested"
    assert planted.finding(inference_memory, sizes("attention") + decoded()).verdict == "untested"
    short = [found for mixer in ("attention", "lstm") for found in sizes(mixer, contexts=(256, 1024, 4096))]
    finding = planted.finding(inference_memory, short + decoded())
    assert finding.verdict == "untested"
    assert "16,384" in finding.reason
    assert planted.finding(inference_memory, short + decoded(), highest=4096).verdict == "holds"


def test_a_report_may_be_drawn_while_sizes_are_written():
    assert planted.finding(inference_memory, sizes("attention", contexts=(256,)) + sizes("lstm")).verdict == "untested"


def test_a_run_of_another_size_does_not_mix_in():
    other = decoding("lstm", dict.fromkeys(CONTEXTS, 1.0), live=0.1)
    for found in other:
        found["run_id"] = "zzz-by-hand"
    assert planted.finding(inference_memory, all_sizes() + decoded() + other) == planted.finding(
        inference_memory, all_sizes() + decoded()
    )


def test_live_bytes_that_differ_leave_it_undecided():
    finding = planted.finding(inference_memory, all_sizes() + decoded(live=0.5))
    assert (finding.verdict, finding.controls[0].met) == ("undecided", False)
    assert "bytes live" in finding.reason
    assert planted.finding(inference_memory, all_sizes()).verdict == "undecided"  # not decoded at all


def test_sequences_may_share_a_counter_and_nothing_else():
    assert planted.finding(inference_memory, all_sizes() + decoded(batch=8)).controls[0].met
    rows = all_sizes() + decoded(batch=8)
    for found in rows:
        if found.get("phase") == "memory" and found["arm"] == "lstm":
            found["state_bytes"] //= 8
    assert not planted.finding(inference_memory, rows).controls[0].met


def test_latency_crosses_between_the_contexts_that_bracket_it():
    finding = planted.finding(inference_memory, all_sizes() + decoded() + decoded(batch=8))
    # Seconds go with the context: from half to twice the LSTM's between 1,024 and 4,096 tokens.
    lines = {line[:2]: line[2:] for line in finding.tables[0].rows}
    assert lines["attention", "1"][0] == "0.867"  # (896 - 8) / 1,024
    assert lines["attention", "1"][1].startswith("2,048 (95 % ")
    assert lines[SHARED, "8"][1] == "beyond 16,384"
    ratio = next(number for number in finding.numbers if "4,096" in number.name and "attention /" in number.name)
    assert ratio.value == pytest.approx(2.0, rel=0.01)
    assert ratio.n == 3
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < 2.0 < ratio.high


@pytest.mark.parametrize(
    ("logs", "wanted"),
    [
        ({16: [1.0, 1.1], 64: [2.0, 2.1]}, "below 16"),
        ({16: [-2.0, -2.1], 64: [-1.0, -1.1]}, "beyond 64"),
        ({16: [1.0, 1.01], 64: [-1.0, -1.01]}, "not known"),
        ({16: [-0.01, 0.01], 64: [1.0, 1.01]}, "not known"),
        ({16: [-1.0], 64: [1.0]}, "not known: one process"),
        ({16: [-1.0, -1.0], 64: [1.0, 1.0]}, "32 (95 % 32 to 32)"),
        ({16: [-1.01, -0.99], 64: [0.99, 1.01]}, "32 (95 % 30 to 34)"),
    ],
)
def test_a_crossing_has_an_interval_or_is_said_not_to_be_known(logs: dict[int, list[float]], wanted: str):
    assert inference_memory._crossing_of_latency(logs).startswith(wanted)


def test_ratios_are_of_turns_taken_side_by_side():
    """Both arms become slower from turn to turn: the ratio must not."""
    rows = all_sizes() + decoded(noise=0.0)
    lone = [found for found in rows if found.get("turn") == 2 and found["arm"] == "lstm" and found["repeat"] == 0]
    finding = planted.finding(inference_memory, [found for found in rows if found not in lone])
    values = [
        number.value for number in finding.numbers if number.name.startswith("seconds a decoded token, attention /")
    ]
    assert values == pytest.approx([0.5, 2.0, 8.0])


def test_one_process_gives_points_without_an_interval():
    finding = planted.finding(inference_memory, all_sizes() + decoded(processes=1, noise=0.0))
    assert all(number.low is None for number in finding.numbers)
    assert dict((line[:2], line[3]) for line in finding.tables[0].rows)["attention", "1"] == "not known: one process"


def test_what_the_machine_refused_is_a_cross():
    times = dict(zip(CONTEXTS[:2], SLOW["attention"], strict=False))
    rows = decoding("attention", times) + decoding("lstm", dict(zip(CONTEXTS, SLOW["lstm"], strict=True)))
    rows.append(row(arm("attention"), "decode:batch=1", interleave_with="decode B=1", outcome="oom"))
    finding = planted.finding(inference_memory, all_sizes() + rows + decoding(SHARED, dict.fromkeys(CONTEXTS, 1e-5)))
    figures = {figure.name: figure for figure in finding.figures}
    assert figures["decode_latency"].failed == (("attention", 16384),)
    assert [at for _, at in figures["decode_latency_ratio"].failed] == [16384]
    assert figures["decode_latency_ratio"].thresholds == {"equal": 1.0}
    assert {"state_bytes", "state_bytes_ratio"} <= figures.keys()


def test_other_arms_are_like_the_one_or_the_other():
    finding = planted.finding(inference_memory, all_sizes("mingru", "attention:window=64") + decoded())
    assert dict(finding.arms) == {
        SHARED: claims.LIKE_ATTENTION,
        "mingru": claims.LIKE_LSTM,
        "attention:window=64": claims.LIKE_LSTM,
    }


def test_cells_of_memory_are_named_as_people_type_them():
    scale = SCALES["quick"]
    cells = inference_memory.cells(scale, [])
    assert all(cell.measure == parts.short("suite.measures", cell.measure) for cell in cells)
    decode = [cell for cell in cells if cell.measure.startswith("decode")]
    batches = inference_memory.SIZES["quick"].batches
    assert len(decode) == len({*scale.arms, SHARED}) * len(batches) * scale.processes
    assert {cell.interleave_with for cell in decode} == {f"decode B={batch}" for batch in batches}
    whole = [cell for cell in decode if parts.knobs("suite.measures", cell.measure)["read"] == 0]
    assert {(cell.repeat, cell.job.arm) for cell in whole} == {(0, mixer) for mixer in scale.arms}
    assert {cell.job.arm for cell in cells if cell.measure == "size"} == {*scale.arms, SHARED}


# Effective context.

LADDER = (16, 64, 256, 1024, 2048, 4088)


def text(mixer: str, seed: int = 0, length: int = 4096) -> Job:
    return arm(mixer).replace(length=length, seed=seed)


def curve(
    mixer: str,
    reach: int,
    seeds: int = 3,
    length: int = 4096,
    test: float = 2.0,
    height: float = 0.2,
    spread: float = 0.0,
) -> list[Row]:
    """Loss falls until `reach` and not further; seed `s` reaches 4^(spread (s - 1)) times as far."""
    found = []
    for seed in range(seeds):
        job, own = text(mixer, seed, length), reach * 4 ** (spread * (seed - 1))
        found.append(row(job, "learning", phase="test", loss=test))
        generator = np.random.default_rng([seed, reach])
        for turn in range(32):
            level = 2 + 0.3 * generator.standard_normal()
            for context in [*(at for at in LADDER if at < length - 8), length - 8]:
                nats = level + height * max(0.0, math.log(own / context) / math.log(own / 16) if own > 16 else 0.0)
                found.append(
                    row(job, "truncated_context", phase="context", context=context, turn=turn, windows=4, nats=nats)
                )
    return found


def judge(attention: list[Row], lstm: list[Row], **thresholds: Any) -> Finding:
    """By the rule of the claim alone: that a rate is tuned is asked of the rows of all claims."""
    rows = attention + lstm
    knobs: dict[str, Any] = {**parts.knobs("suite.claims", "context_length"), **thresholds}
    return context_length.tell(rows, context_length.judge(rows, **knobs), **knobs)


def test_a_short_lstm_and_attention_that_reads_further_hold():
    finding = judge(curve("attention", 2048), curve("lstm", 256))
    assert (finding.verdict, finding.basis) == ("holds", "measured")
    lines = {line[0]: line[1:] for line in finding.tables[0].rows}
    assert lines["attention"][2].startswith("2,048")
    assert lines["lstm"][2].startswith("256")
    ratio = next(
        number for number in finding.numbers if number.name == "effective context at 0.01 nats, attention / LSTM"
    )
    assert (ratio.value, ratio.low, ratio.high) == (8.0, None, None)


def test_an_lstm_beyond_the_cap_fails():
    finding = judge(curve("attention", 4088), curve("lstm", 4088))
    assert finding.verdict == "fails"
    assert "above 2,048" in finding.reason
    assert finding.numbers[1].value == 4096  # the whole window counts as its length


def test_attention_that_reads_no_further_fails():
    assert judge(curve("attention", 256), curve("lstm", 256)).verdict == "fails"
    assert judge(curve("attention", 64), curve("lstm", 1024)).verdict == "fails"


def test_thresholds_are_knobs():
    rows = curve("attention", 4088), curve("lstm", 1024)
    assert judge(*rows).verdict == "holds"
    assert judge(*rows, factor=8.0).verdict == "undecided"
    assert judge(*rows, cap=512).verdict == "fails"
    assert judge(*rows, shortest=8192).verdict == "untested"


def test_seeds_that_disagree_leave_it_undecided():
    finding = judge(curve("attention", 1024), curve("lstm", 256, spread=1.0))
    assert finding.verdict == "undecided"
    assert "interval" in finding.reason


def test_an_answer_that_turns_with_the_tolerance_is_undecided():
    # Attention gains 0.2 nats up to 256 tokens and a last 0.02 up to 2,048: enough at 0.01, not at 0.03.
    rows = curve("attention", 256)
    for found in rows:
        if found.get("phase") == "context" and found["context"] < 2048:
            found["nats"] += 0.02
    finding = judge(rows, curve("lstm", 256))
    assert finding.verdict == "undecided"
    assert "it turns with the tolerance" in finding.reason
    assert "holds at 0.01" in finding.reason
    assert "fails at 0.03" in finding.reason


def test_short_trainings_are_untested_with_the_ordering():
    finding = judge(curve("attention", 256, length=512), curve("lstm", 64, length=512))
    assert finding.verdict == "untested"
    assert (
        "4,096 tokens were not reached; at 512 attention looks further back (256 tokens against 64)" in finding.reason
    )
    assert finding.figures[0].points
    assert list(finding.figures[0].thresholds.values()) == pytest.approx([0.01, 0.003, 0.03])


def test_the_longest_length_that_the_pair_has_is_judged():
    short = [*curve("attention", 64, length=512), *curve("lstm", 256, length=512)]
    rows = [*short, *curve("attention", 2048), *curve("lstm", 256)]
    assert context_length.judge(rows).verdict == "holds"
    assert "512" in planted.finding(context_length, [*short, *curve("attention", 2048)]).speaks_for


def test_other_tasks_do_not_count():
    rows = curve("attention", 2048) + curve("lstm", 256)
    for found in rows:
        found["task"] = parts.canonical("suite.tasks", "recall")
    assert context_length.judge(rows).verdict == "untested"
    assert context_length.judge([]).verdict == "untested"


def test_one_seed_gives_no_interval():
    finding = judge(curve("attention", 2048, seeds=1), curve("lstm", 256))
    assert finding.verdict == "untested"
    assert "fewer than two seeds" in finding.reason


def test_seeds_that_diverged_or_are_missing_are_named():
    lost = row(text("lstm", 3), "learning", phase="train", outcome="diverged")
    finding = judge(curve("attention", 2048, seeds=4), [*curve("lstm", 256), lost])
    assert finding.verdict == "holds"
    assert "left out: lstm seed 3 (diverged)" in finding.reason
    assert "attention seed 2 (missing)" in judge(curve("attention", 2048, seeds=2), curve("lstm", 256)).reason


@pytest.mark.parametrize("broken", [{"test": 3.0}, {"height": 0.0}])
def test_a_model_that_learnt_nothing_leaves_it_undecided(broken: dict[str, Any]):
    finding = judge(curve("attention", 2048, **broken), curve("lstm", 256))
    assert finding.verdict == "undecided"
    assert not all(control.met for control in finding.controls)
    assert "control failed" in finding.reason
    assert judge(curve("attention", 2048), curve("lstm", 256, test=3.0)).verdict == "undecided"


def test_other_arms_are_likened_by_their_context_from_three_seeds_on():
    def likeness(arm: str, context: int, seeds: int = trials.OTHERS, factor: float = 2.0) -> dict[str, str]:
        rows = [*curve("attention", 2048), *curve(arm, context, seeds=seeds)]
        return dict(judge(rows, curve("lstm", 1024), factor=factor).arms)

    assert likeness("mingru", 256) == {"mingru": claims.LIKE_LSTM}
    assert likeness("gru", 2048) == {"gru": claims.LIKE_ATTENTION}
    assert likeness("gru", 2048, factor=3.0) == {"gru": claims.NEITHER}
    assert likeness("attention:window=64", 1024) == {"attention:window=64": claims.LIKE_LSTM}
    assert likeness("gru", 2048, seeds=2) == {}


def test_cells_of_context_train_every_arm_by_every_seed():
    scale = SCALES["quick"]
    cells = context_length.cells(scale, [])
    assert len(cells) == 2 * len(scale.arms) * context_length.SIZES["quick"].seeds
    assert {cell.measure for cell in cells} == {"learning", "truncated_context"}
    assert {cell.job.length for cell in cells} == {scale.curves["length"]}


# The bootstrap.


def test_a_bootstrap_draws_members_and_then_their_rows():
    generator = np.random.default_rng(1)
    within = [generator.standard_normal((400, 1)) for _ in range(20)]
    spread = float(np.std(bootstrap(within)))
    # 20 members without a difference of their own: as 8,000 values, and a like share from drawing members again.
    assert spread == pytest.approx(math.sqrt(2 / 8_000), rel=0.3)
    between = [member + 3 * generator.standard_normal() for member in within]
    assert float(np.std(bootstrap(between))) == pytest.approx(3 / math.sqrt(20), rel=0.3)
    assert bootstrap(within).shape == (2000, 1)


def test_a_bootstrap_of_two_arms_of_one_shape_is_paired():
    base = [np.random.default_rng(seed).standard_normal((20, 2)) for seed in range(3)]
    shifted = [member + 1 for member in base]
    np.testing.assert_allclose(bootstrap(shifted) - bootstrap(base), 1.0)
    assert np.std(bootstrap(base)) > 0.01
    assert not np.array_equal(bootstrap(base, seed=1), bootstrap(base))


def test_a_percentile_interval_keeps_to_the_values_drawn():
    assert percentile_interval(2.0, np.asarray([1.0] * 5 + [2.0] * 90 + [64.0] * 5)) == (2.0, 1.0, 64.0)
    assert percentile_interval(2.0, np.asarray([1.0] * 2 + [2.0] * 96 + [64.0] * 2)) == (2.0, 2.0, 2.0)
