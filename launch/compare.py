"""Compares attention and recurrent models: trains and measures them, judges the claims, draws the report.

    python -m launch.compare --scale=quick --out=out/quick
    python -m launch.compare --arms=./mine.py --arms=attention --claims=parallelism

An arm is one side of the comparison: a mixer (attention, an LSTM, ...) with its knobs. A claim is one of the textbook's
reasons for attention; it asks for cells, a cell being one training and one measure of it. The same command again skips
the cells that are done. On several hosts start it on each, with a shared --out. Several of these commands at once, or
--workers, share the cells: each cell is run by the worker that claims it.
"""

import collections
import dataclasses
import functools
from typing import Any

from absl import flags
from etils import epath

import launch
from launch import job as worker
from launch import studies
from suite import files, parts
from suite.scale import SCALES, Scale
from suite.sweep import exit_codes, reading, recalling, serving, status, store
from suite.sweep.comparison import Comparison
from suite.sweep.schedule import Plan

SCALE = flags.DEFINE_enum(
    "scale",
    "quick",
    list(SCALES),
    "sizes and number of the trainings; smoke tests the installation",
)
ARMS = flags.DEFINE_multi_string("arms", [], studies.ARMS)
CLAIMS = flags.DEFINE_string("claims", "", "claims to judge, separated by commas; empty: all")
RATES = studies.define_rates(
    "learning rates of the trainings; a verdict that rests on one that was not tuned is undecided"
)
WORKERS = studies.define_workers()
STATUS = flags.DEFINE_bool("status", False, "print the state of each cell under --out, and run nothing")
STUDY = studies.Study(
    "compare", own=("scale", "arms", "claims", "rates", "workers"), without=("budget_seconds", "lengths")
)
STUDY.declare()

# What other programs leave in their --out, and whose it is.
OTHERS = {
    store.CROSSOVERS: "crossovers",
    serving.FILE: "launch.inference's records",
    reading.FILE: "launch.contexts' records",
    recalling.FILE: "launch.recall's records",
}


def main() -> int:
    if STATUS.value:
        return print_status(epath.Path(worker.OUT.value))
    with exit_codes.door():
        claims = chosen_claims()
        plan = Plan(chosen_scale(), claims, RATES.value)
        if flags.FLAGS["dry_run"].value:
            print_plan(plan)
            return exit_codes.DONE
        check_out()
        comparison = STUDY.comparison(plan, WORKERS.value, functools.partial(report, claims))
    out = epath.Path(worker.OUT.value)
    given = [flags.FLAGS[name].serialize() for name in flags.FLAGS if flags.FLAGS[name].present]
    files.write(out / "compare.flags", "\n".join(given) + "\n")
    return comparison.run()


def check_out() -> None:
    """Refuses an --out that cannot be written, or that holds rows on which no claim rests."""
    store.check_writable(worker.OUT.value)
    for name, others in OTHERS.items():
        if (epath.Path(worker.OUT.value) / name).exists():
            raise ValueError(f"{worker.OUT.value} holds {others}, whose rows no claim rests on; use another --out")


def print_status(out: epath.Path) -> int:
    """The table of cells, and how many are in each state."""
    with exit_codes.door():
        store.check_schema(out)
        if not out.exists():
            raise ValueError(f"no records in {out}; wanted the --out of a launch.compare or a launch.job")
    lines = list(status.table(out))
    print("\n".join("{:<8}{:>6}  {:<12}{:<24}{}".format(*line) for line in [status.COLUMNS, *lines]))
    counts = collections.Counter(state for state, *_ in lines)
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no cells")
    return 0


def chosen_claims() -> tuple[str, ...]:
    """The claims of the command line; all of them where it names none."""
    claims = parts.split_list(CLAIMS.value) if CLAIMS.value else parts.names("suite.claims")
    if not claims:
        raise ValueError(f"--claims names none; known: {', '.join(parts.names('suite.claims'))}")
    for claim in claims:
        parts.source("suite.claims", claim)
    return tuple(claims)


def chosen_scale() -> Scale:
    """The scale with the arms and the job flags of the command line in the place of its own."""
    scale = SCALES[SCALE.value]
    job = STUDY.job(scale.job)
    arms = studies.arms(ARMS.value) if ARMS.present else scale.arms
    given = {name for name in STUDY.fields if flags.FLAGS[name].present}
    changes: dict[str, Any] = {"arms": arms, "job": job.replace(match=scale.job.match, match_to="")}
    if "match" in given:
        changes["matches"] = (job.match,)
    if "match_to" in given:
        changes["reference"] = parts.short("suite.mixers", job.match_to)
    if "length" in given:
        changes["lengths"] = (job.length,)
    return dataclasses.replace(scale.without(given), **changes)


def report(claims: tuple[str, ...], comparison: Comparison, done: bool) -> None:
    """Draws the report of what there is; at the end its headline is printed."""
    STUDY.report(comparison, done, claims)
    if done:
        from suite import report  # here, not above: --help answers at once

        print(report.headline(comparison.out))


def print_plan(plan: Plan) -> None:
    """The scale, the claims that it cannot decide, and the cells known so far."""
    scale = plan.scale
    print(f"scale {scale.name}: {scale.about}")
    for claim, reason in plan.untested.items():
        print(f"  {claim} cannot be decided at this scale: {reason}")
    studies.print_cells(plan)


if __name__ == "__main__":
    launch.run(main)
