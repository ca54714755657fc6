"""What the programs have in common that measure several arms: flags of launch.job, the arms, the run, the report."""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from absl import flags
from etils import epath

from launch import job as worker
from suite import job as jobs
from suite import learning_rates, parts
from suite.job import Job
from suite.scale import PAIR
from suite.sweep import exit_codes, rendezvous, store
from suite.sweep.comparison import Comparison
from suite.sweep.options import PASSED, Options
from suite.sweep.schedule import Schedule, estimate_seconds

flags.disclaim_key_flags()  # those that are defined here are the caller's

ARMS = "mixers with knobs, or your own files, separated by commas or the flag repeated; all: every mixer"
# Flags of launch.job without a meaning where there are several arms and measures.
MEANINGLESS = ("mixer", "own_width", "state_passing", "measures", "repeat", "trace")
ONE_MODEL = ("params", "none")  # values of --match by which an arm is one model at all lengths

Report = Callable[[Comparison, bool], None]


@dataclasses.dataclass(frozen=True)
class Study:
    """A program that measures several arms, by its flags."""

    program: str  # of launch
    own: tuple[str, ...]  # flags of the program that say what is measured
    without: tuple[str, ...]  # flags of launch.job, beside those that no study takes, which have no meaning in it

    @property
    def fields(self) -> list[str]:
        """The fields of a job that are flags of the program."""
        return [field.name for field in dataclasses.fields(Job) if field.name not in self._refused]

    @property
    def _refused(self) -> tuple[str, ...]:
        return (*MEANINGLESS, *self.without)

    def declare(self) -> None:
        """Defines --dry_run; shows the flags that are passed on, and those of a job, in the program's --help."""
        flags.DEFINE_bool("dry_run", False, "print the first cells and an estimate of the minutes, and run nothing")
        for name in (*PASSED, *self.fields):
            flags.declare_key_flag(name)
        flags.set_default(worker.OUT, f"out/{self.program}")

    def job(self, base: Job) -> Job:
        """The job of the command line over `base`; ValueError where a flag was given that has no meaning."""
        for name in self._refused:
            if flags.FLAGS[name].present:
                taken = ", ".join(f"--{own}" for own in self.own)
                raise ValueError(f"--{name} is for launch.job; this program takes {taken}")
        return jobs.from_flags(flags.FLAGS, base)

    def asked(self) -> rendezvous.Settings:
        """What is measured, to be the same on every host that takes part in it."""
        return {f"--{name}": str(flags.FLAGS[name].value) for name in (*self.own, *self.fields)}

    def run(self, chosen: Callable[[], Schedule], workers: int = 0, report: Report | None = None) -> int:
        """Runs the schedule that the command line asks for, or prints it; returns the exit code."""
        with exit_codes.door():
            schedule = chosen()
            if flags.FLAGS["dry_run"].value:
                print_cells(schedule)
                return exit_codes.DONE
            check_out()
            comparison = self.comparison(schedule, workers, report or self.report)
        return comparison.run()

    def comparison(self, schedule: Schedule, workers: int, report: Report) -> Comparison:
        """The run of a schedule, with the options of the command line; ValueError where its cells cannot be made."""
        schedule.first_cells()
        return Comparison(
            schedule,
            options(),
            workers=workers,
            any_batch=not flags.FLAGS["batch"].present,
            asked=self.asked(),
            command=sys.argv[1:],
            report=report,
            clock=time.monotonic,
        )

    def report(self, comparison: Comparison, done: bool, more_claims: Sequence[str] = ()) -> None:
        """Draws the report of what there is; at the end also the learning rates that were chosen, and the problems."""
        from suite import report  # here, not above: --help answers at once
        from suite.report import calibration

        path = report.write(comparison.out, more_claims=more_claims)
        print(f"report: {path}" if done else f"report so far: {path}", flush=True)
        if not done:
            return
        curves = [curve for curve in learning_rates.gather(comparison.rows()) if curve.scores]
        if curves:
            command = shlex.join(["python", "-m", f"launch.{self.program}", *comparison.command])
            print(f"rates: {calibration.write_rates(curves, command, comparison.out)}")
        for problem in report.problems(comparison.out):
            print(f"crossover: {problem}", file=sys.stderr)


def define_rates(of: str = "learning rates") -> flags.FlagHolder[str]:
    """Defines --rates of the calling program, whose help begins with `of`."""
    ways = "; ".join(f"{name}: {about}" for name, about in learning_rates.RATES.items())
    return flags.DEFINE_enum("rates", "tuned", list(learning_rates.RATES), f"{of}; {ways}")


def define_workers() -> flags.FlagHolder[int]:
    """Defines --workers of the calling program."""
    about = "processes that share what is not timed; 0: two on a CPU, else one"
    return flags.DEFINE_integer("workers", 0, about, lower_bound=0)


def options() -> Options:
    """The options of the processes that run the cells."""
    passed: dict[str, Any] = {name: flags.FLAGS[name].value for name in PASSED}
    return Options(**passed)


def check_out() -> None:
    """Refuses an --out that cannot be written, or that holds a comparison."""
    store.check_writable(worker.OUT.value)
    if (epath.Path(worker.OUT.value) / store.COMPARISON).exists():
        raise ValueError(f"{worker.OUT.value} holds a comparison, which has rows of its own; use another --out")


def arms(values: Iterable[str]) -> tuple[str, ...]:
    """The arms of the values of --arms, each once; ValueError where there are none."""
    every = {"all": [*PAIR, *(name for name in parts.names("suite.mixers") if name not in PAIR)]}
    specs = [spec for value in values for item in parts.split_list(value) for spec in every.get(item, [item])]
    named = tuple(dict.fromkeys(parts.short("suite.mixers", spec) for spec in specs))
    if not named:
        raise ValueError(f"--arms names none; known: all, {', '.join(parts.names('suite.mixers'))}")
    return named


def check_one_model(job: Job) -> None:
    """Refuses a matching by which an arm would be another model at another length."""
    if job.match not in ONE_MODEL:
        wanted = " or ".join(f"--match={match}" for match in ONE_MODEL)
        raise ValueError(f"--match={job.match} would make other models at other lengths; wanted {wanted}")


def print_cells(schedule: Schedule) -> None:
    """Each cell that is known before anything is measured, with a rough cost, and their sum."""
    first, known = schedule.cells([]), schedule.first_cells()
    rounds = [("cells in the first round, after which more may be asked for", known)]
    if first != known:
        rounds = [("cells that choose learning rates", first), ("cells after them", known)]
    for which, cells in rounds:
        for cell in cells:
            print(f"  {estimate_seconds(cell):6.0f} s  {cell.label}")
        print(f"{len(cells)} {which}: about {sum(map(estimate_seconds, cells)) / 60:.1f} minutes on two CPU cores")
