"""A comparison planned ahead: topologies, what a compiled step moves and waits for, bounds, cells at their most."""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
from programs import command, run

from suite import learning_rates
from suite import mesh as meshes
from suite.counting import traffic
from suite.job import Cell, Job
from suite.judging import trials
from suite.planning import bounds, fit, most, program, topology
from suite.report import planned
from suite.report.utilisation import Timing
from suite.scale import PAIR, SCALES
from suite.sweep import reading
from suite.sweep.reading import Reading
from suite.sweep.schedule import Plan
from suite.training.memory import largest_that_fits
from suite.training.programs import NOT_IN_A_PROGRAM

KIND = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:256", "v5e:0x4", "h100:2x4", "cpu:1x2", "cpu:99999", ""])
def test_an_unknown_topology_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"^no topology .* is known; wanted a TPU's chips as v5e:16x16[^\n]*$"):
        topology.parse(name)


@pytest.mark.parametrize(("name", "package"), [("v5e:16x16", "libtpu"), ("h100:8", "jax_cuda13_plugin")])
def test_a_compiler_that_is_not_installed_is_refused_with_the_command_that_installs_it(name: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        assert topology.parse(name).compiler == package
        return
    ended = run(command("plan", f"--topology={name}"))
    assert ended.returncode == 70
    [line] = ended.stderr.strip().splitlines()
    assert f"the compiler for {name} is not installed: pip install 'jax[" in line


def test_chips_are_counted_and_a_cpus_devices_are_this_hosts() -> None:
    assert topology.parse("cpu:8").mesh("fsdp:2,data:").shape["data"] == 4
    assert "device_count=8" in topology.parse("cpu:8").environment["XLA_FLAGS"]


def test_only_a_tpus_compiler_is_asked_for_less_effort() -> None:
    options = {platform: topology.Topology("", platform, 1).options("least") for platform in ("tpu", "cuda", "cpu")}
    assert options["tpu"] == {"exec_time_optimization_effort": -1.0}
    assert options["cpu"] == {}
    assert options["cuda"] == topology.Topology("", "cuda", 1).options("full")
    assert topology.Topology("", "tpu", 1).options("full") == {}


def test_turns_are_those_of_loops_over_time_and_of_a_long_array_the_slices_are_read() -> None:
    weight_DD, x_TD = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((1000, 64), jnp.float32)

    def read(weight_DD: jax.Array, x_TD: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda h_D, x_D: (jnp.tanh(h_D @ weight_DD + x_D), None), x_TD[0], x_TD)[0]

    def in_blocks(weight_DD: jax.Array, x_TD: jax.Array) -> jax.Array:
        with jax.named_scope("blocks"):
            return jax.lax.scan(lambda h_D, _: (read(weight_DD, x_TD + h_D[None]), None), x_TD[0], None, length=3)[0]

    once, thrice = (traffic.of_program(jax.jit(fn).lower(weight_DD, x_TD).compile()) for fn in (read, in_blocks))
    assert once.turns == 1000
    assert thrice.turns == 3000
    weights = 1000 * 4 * 64 * 64  # read in every turn
    assert weights < once.accessed_bytes < 1.2 * weights  # with all of x in every turn it would be 17 times that


def test_a_step_takes_at_least_its_longest_part_and_at_most_all_of_them_one_after_another() -> None:
    speeds = bounds.of_accelerator(KIND, "bfloat16")
    solved = {"batch": 8, "length": 1000}
    record = {"solved": solved, "argument_bytes": 10**9, "output_bytes": 10**9, "accessed_bytes": 10**10}
    record |= {"turns": 4000, "sent_bytes": {"all-reduce": 45 * 10**7}}
    step = bounds.of_step(record, 1e9, 2, speeds)
    assert step.compute == pytest.approx(3 * 8e12 / 2 / 989.4e12)
    assert step.memory_least == pytest.approx(2e9 / 3.35e12)
    assert step.network == pytest.approx(1e-3)
    assert (step.low, step.longest) == (step.compute, "compute")
    assert step.high == pytest.approx(step.compute + 1e10 / 3.35e12 + 1e-3 + 4000 * 2e-6)


def test_a_speed_that_nobody_has_measured_is_left_out_and_said() -> None:
    speeds = bounds.of_accelerator("TPU v5 lite", "bfloat16")
    assert speeds.step_seconds == 0
    assert [reason.partition(":")[0] for reason in speeds.missing] == ["chain"]


def test_a_program_says_what_a_device_holds_and_sends_and_one_that_fits_no_mesh_says_why(devices: list) -> None:
    mesh = meshes.make("data:2,fsdp:", devices)
    job = Job(mixer="lstm", width=16, depth=1, length=8, batch=8, **NOT_IN_A_PROGRAM)
    model = program.answer(request("model", job), mesh)
    record = program.answer(request("program", job), mesh)
    assert record["outcome"] == "ok"
    assert record["turns"] >= 2 * 8  # forward and backward
    assert 4 * model["params"] / 4 <= record["parameter_bytes"] < 4 * model["params"]
    assert record["argument_bytes"] > record["parameter_bytes"] + record["optimizer_bytes"]
    assert sum(record["sent_bytes"].values()) > 0
    refused = program.answer(request("program", job.replace(batch=6)), mesh)
    assert refused["outcome"] == "refused"
    assert "batch 6 is not a multiple of the 8 devices" in refused["error"]


def request(kind: str, job: Job) -> dict:
    return {"kind": kind, "job": json.loads(job.to_json()), "vocab": 16, "options": {}}


@pytest.fixture(scope="module")
def tracking() -> tuple[list[Cell], int]:
    """The cells of state_tracking by the judged pair, whose rates are all chosen anew."""
    plan = Plan(dataclasses.replace(SCALES["laptop"], arms=PAIR), ("state_tracking",), "anew")
    return most.cells(plan, lambda jobs: {job: MODEL for job in jobs})


def test_rates_are_counted_up_to_the_end_of_their_grid(tracking: tuple[list[Cell], int]) -> None:
    cells, first = tracking
    rates = {cell.job.learning_rate for cell in cells if cell.job.seed == learning_rates.SEEDS[0]}
    assert rates == {*learning_rates.GRID, 0.1, 0.3, 1.0}
    assert first < len(cells)


def test_all_variants_are_counted_as_trained_for_longer(tracking: tuple[list[Cell], int]) -> None:
    cells, _ = tracking
    longer = {cell.job.arm for cell in cells if cell.job.steps == 2000}
    assert {*trials.variants("attention"), *trials.variants("lstm")} <= longer


def test_at_fixed_compute_one_width_beyond_the_edge_is_counted() -> None:
    plan = Plan(dataclasses.replace(SCALES["quick"], arms=PAIR), ("compute_scaling",), "table")
    cells, first = most.cells(plan, lambda jobs: {job: MODEL for job in jobs})
    widths = {cell.job.width for cell in cells if cell.measure == "learning" and cell.job.length == 128}
    assert len({width for width in widths if width > 64}) == 1
    assert first < len(cells)


def test_the_trainings_of_contexts_are_counted_with_the_rates_that_they_may_come_to_try() -> None:
    job = reading.size("laptop").job("needle")
    asked = Reading(PAIR, job, seeds=3, measures=reading.measures("needle"), rates="anew")
    cells, first = most.cells(asked, lambda jobs: {job: MODEL for job in jobs})
    tried = [cell for cell in cells if cell.job.seed in learning_rates.SEEDS]
    assert first == len(PAIR) * len(learning_rates.GRID) * len(learning_rates.SEEDS)
    assert {cell.job.learning_rate for cell in tried} > {*learning_rates.GRID}
    assert len(cells) - len(tried) == len(PAIR) * 3 * 2


def test_a_scale_without_sizes_for_a_study_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(ValueError, match=r"launch\.contexts has no scale smoke; known: laptop, gpu_hour, pod"):
        reading.size("smoke")


def test_a_measured_step_stands_beside_the_bounds_of_its_own_program() -> None:
    job = Job(mixer="lstm", width=48, length=64, **NOT_IN_A_PROGRAM)
    solved = dataclasses.asdict(job)
    plan = {"place": {"place": "here"}, "programs": [{"solved": solved, "bounds": BOUNDS}, {"outcome": "oom"}]}

    def timed(seconds: float, **changes: object) -> Timing:
        row = {**solved, "arm": "lstm", "solved": "lstm", "place": "here", "task": "recall", "learning_rate": 0.1}
        return Timing(row | changes, [], [seconds], {})

    elsewhere, another = timed(1.0, place="there"), timed(1.0, width=40)
    compared = planned.compare(plan, [timed(0.5), timed(1.5), timed(6.0), elsewhere, another])
    assert [one.inside for one in compared] == ["below", "yes", "3.0 times the upper"]


BOUNDS = {"low": 1.0, "high": 2.0, "longest": "compute"}
MODEL = {"outcome": "ok", "flops_per_token": 1e5, "params": 10**4}


@pytest.mark.parametrize("largest", [3, 8, 24, 100, 999])
@pytest.mark.parametrize("start", [1, 16, 400])
def test_the_largest_that_fits_is_found_from_either_side(largest: int, start: int) -> None:
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= largest

    low, high = largest_that_fits(fits, start, 1, fit.MOST)
    assert low <= largest < high
    assert high - low <= max(1, largest // 16)
    assert len(tried) < 16


def test_nothing_fits_where_the_least_does_not() -> None:
    assert largest_that_fits(lambda size: False, 64, 8, fit.MOST) == (0, 8)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plan_is_made_once_and_goes_on_from_what_it_has(tmp_path: pathlib.Path) -> None:
    flags = ["--scale=smoke", "--arms=lstm", "--claims=inference_memory", "--rates=table", "--width=16"]
    planned = command("plan", "--topology=cpu:1", *flags, "--price_per_chip_hour=2", f"--out={tmp_path}")
    first = run(planned)
    assert first.returncode == 0, first.stderr
    assert "] program lstm T=64" in first.stdout
    made = json.loads((tmp_path / "plan.json").read_text())
    assert all(row["fits"] and 0 < row["bounds"]["low"] < row["bounds"]["high"] for row in made["programs"])
    assert made["totals"]["price"] == [2 * hours for hours in made["totals"]["chip_hours"]]
    records = sorted((tmp_path / "plan").glob("program-*.json"))
    records[0].unlink()
    again = run(planned)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("] program") == 1, "what was lost is compiled again, and nothing else"
    assert sorted((tmp_path / "plan").glob("program-*.json")) == records
