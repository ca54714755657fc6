"""Plans a study for devices that are not there: what compiles, what fits, how long it takes and what it costs.

    python -m launch.plan --scale=pod --topology=v5e:16x16 --price_per_chip_hour=1.2
    python -m launch.plan --scale=gpu --topology=h100:8 --arms=attention,lstm --fit=batch
    python -m launch.plan --study=contexts --scale=gpu_hour --topology=h100:1

With the flags of launch.compare, at the sizes of --study. Every training step is compiled ahead of time by the
topology's own compiler; a step's time and the whole's are given between bounds. The same command again compiles only
what is missing. It writes plan.json to --out, of which launch.report shows the bounds beside what was measured.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import sys
import tempfile

from absl import flags
from etils import epath

import launch
from launch import compare, studies
from launch import job as worker
from suite import files, parts
from suite.job import Job
from suite.scale import PAIR
from suite.sweep import exit_codes, reading, recalling, store
from suite.sweep.reading import Reading
from suite.sweep.recalling import Recalling
from suite.sweep.record import Row
from suite.sweep.schedule import Plan, Schedule

EFFORTS = {
    "least": "a TPU's programs in a sixth of the seconds; temporaries mostly within a tenth, upper bounds higher",
    "full": "as they would be compiled to run",
}
TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "devices to plan for: v5e:16x16, v5p:2x2x4, v6e:8x8, tpu7x:2x2x1 (TPU chips), h100:8, cpu:8",
    required=True,
)
PRICE = flags.DEFINE_float("price_per_chip_hour", 0.0, "price of a chip's hour; 0: no money is told", lower_bound=0.0)
FIT = flags.DEFINE_enum("fit", "", ["", "batch", "length", "width"], "find the largest of each arm that fits, instead")
EFFORT = flags.DEFINE_enum(
    "effort",
    "least",
    list(EFFORTS),
    "of the compiler; " + "; ".join(f"{name}: {about}" for name, about in EFFORTS.items()),
)
STUDY = flags.DEFINE_enum("study", "compare", ["compare", "contexts", "recall"], "the program whose cells are planned")
COMPILES = flags.DEFINE_bool("compiles", False, "internal: compile what standard input names")
flags.adopt_module_key_flags(compare)


def main() -> int:
    with exit_codes.door():
        from suite.planning import compilers, estimate, fit, table, topology  # here: --help answers at once

        devices = topology.parse(TOPOLOGY.value)
        if COMPILES.value:
            return compile_requests(devices)
        plan, named = chosen()
        store.check_writable(worker.OUT.value)
    out = epath.Path(worker.OUT.value)
    local = pathlib.Path(tempfile.gettempdir()) if files.is_object(out) else out
    children = compilers.Compilers(
        devices,
        mesh=flags.FLAGS.mesh,
        command=[*(sys.executable, "-m", "launch.plan", "--compiles"), *child_flags()],
        folder=out / "plan",
        children=compare.WORKERS.value or compilers.default_children(),
        log=os.fspath(local / "plan.log"),
        tell=tell,
    )
    try:
        if not flags.FLAGS["batch"].present:
            plan = plan.on(children.place["devices_of_examples"])
        asked = estimate.Estimate(plan, named, children, flags.FLAGS.data_dir, EFFORT.value)
        if FIT.value:
            print("\n".join(fit.lines(asked, arms_of(plan), FIT.value)))
            return exit_codes.DONE
        made = asked.make(PRICE.value)
    finally:
        children.stop()
    made["command"] = shlex.join(["python", "-m", "launch.plan", *sys.argv[1:]])
    files.write(out / "plan.json", json.dumps(made, indent=1) + "\n")
    print("\n".join(table.lines(made)))
    print(f"plan: {out / 'plan.json'}")
    return exit_codes.DONE


def chosen() -> tuple[Schedule, Row]:
    """The schedule that the command line asks for, and what plan.json says of it."""
    named = {"study": STUDY.value, "scale": compare.SCALE.value}
    if STUDY.value != "compare":
        plan = {"contexts": chosen_reading, "recall": chosen_recalling}[STUDY.value]()
        return plan, {**named, "arms": list(plan.arms), "claims": []}
    scale, claims = compare.chosen_scale(), compare.chosen_claims()
    named |= {"arms": list(scale.arms), "claims": list(claims)}
    return Plan(scale, claims, compare.RATES.value), named


def chosen_reading() -> Reading:
    """The trainings of launch.contexts at the scale, with the arms and the job of the command line."""
    task = str(flags.FLAGS["task"].value) if flags.FLAGS["task"].present else reading.TASK
    size = reading.size(compare.SCALE.value)
    arms = studies.arms(compare.ARMS.value) if compare.ARMS.present else PAIR
    rates = "" if flags.FLAGS["learning_rate"].present else compare.RATES.value
    return Reading(arms, compare.STUDY.job(size.job(task)), size.seeds, reading.measures(task), rates)


def chosen_recalling() -> Recalling:
    """The trainings of launch.recall at the scale, with the arms and the job of the command line."""
    sizes = recalling.sizes(compare.SCALE.value)
    sizes = dataclasses.replace(sizes, job=compare.STUDY.job(sizes.job))
    arms = studies.arms(compare.ARMS.value) if compare.ARMS.present else sizes.arms
    rates = "" if flags.FLAGS["learning_rate"].present else compare.RATES.value
    return Recalling(arms, sizes, recalling.SEEDS, rates)


def arms_of(plan: Schedule) -> list[Job]:
    """A job of each arm."""
    if isinstance(plan, Plan):
        return [plan.scale.arm(mixer) for mixer in plan.scale.arms]
    return list({cell.job.arm: cell.job for cell in plan.first_cells()}.values())


def child_flags() -> list[str]:
    return [f"--{name}={flags.FLAGS[name].value}" for name in ("topology", "mesh", "data_dir")]


def compile_requests(devices) -> int:
    """The child: answers requests until its standard input ends."""
    from suite.planning import program

    answers = program.quiet_answers()
    program.serve(devices.mesh(flags.FLAGS.mesh), sys.stdin, answers)
    return exit_codes.DONE


def tell(number: int, of: int, record: Row) -> None:
    """A line for each record that is new."""
    if "job" not in record:
        return
    job = record["job"]
    name = f"{record['kind']} {parts.short('suite.mixers', job['mixer'])} T={job['length']} B={job['batch']}"
    seconds = f" in {record['compile_seconds']:.0f} s" if "compile_seconds" in record else ""
    told = "" if record["outcome"] == "ok" else f": {record['outcome']}, {record['error']}"
    print(f"[{number}/{of}] {name}{seconds}{told}", flush=True)


if __name__ == "__main__":
    launch.run(main)
