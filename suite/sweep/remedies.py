"""Remedies for lengths beyond the trained one: other positions for attention, passed states for recurrences.

Each is a change of the training, or of a reading of it. A hybrid takes those of both sides, one at a time. All have the
learning rate of the training without.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from suite import parts
from suite.job import MOST_PASSING, Cell, Job
from suite.judging import alike
from suite.sweep.record import Row

ROPE = ("positions", "rope")
SHAPE = (*alike.MODEL, "length", "state_dtype")  # what the width of a matched arm follows from


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What is changed of a training, or of its reading; the rest, its width too, is as without."""

    name: str
    positions: str = ""  # of attention, in place of rope; empty: unchanged
    state_passing: float = 0.0
    knob: str = ""  # of attention with rope, which a reading beyond the trained length sets to the multiple of it

    def is_for(self, job: Job) -> bool:
        """Whether a mixer of the job's pattern has what the remedy changes."""
        if self.state_passing:
            return any(_passes(spec) for spec in parts.pattern(job.mixer))
        return any(_turns(spec) for spec in parts.pattern(job.mixer))

    def of(self, job: Job, width: int) -> Job:
        """The training with the remedy, of an arm that has this width without it."""
        changes = {"positions": self.positions} if self.positions else {}
        specs = [
            parts.with_knobs("suite.mixers", spec, changes) if changes and _turns(spec) else spec
            for spec in parts.pattern(job.mixer)
        ]
        own_width = width if changes and _is_matched(job) else job.own_width
        return job.replace(mixer="+".join(specs), own_width=own_width, state_passing=self.state_passing)

    def measure(self, spec: str) -> str:
        """The measure that reads with the remedy."""
        if not self.knob:
            return spec
        return parts.short("suite.measures", parts.with_knobs("suite.measures", spec, {"remedy": self.knob}))


REMEDIES = (
    Remedy("interpolation", knob="interpolation"),  # Chen et al. 2023
    Remedy("NTK", knob="ntk"),  # bloc97 2023; Peng et al. 2023
    Remedy("ALiBi", positions="alibi"),  # Press et al. 2022
    Remedy("no positions", positions="none"),  # Kazemnejad et al. 2023
    Remedy("state passing", state_passing=MOST_PASSING),  # Buitrago and Gu 2025
)


def cells(trainings: Sequence[Job], measures: Sequence[str], rows: Sequence[Row]) -> Iterator[Cell]:
    """The remedied trainings with their readings, the remedied readings, and of one seed what a token costs.

    A measure without the knob `remedy` reads what is without remedies alone.

    Other positions allow other widths than rope. A matched arm keeps that with rope, so its trainings with other
    positions come once a row tells this width.
    """
    remediable = [spec for spec in measures if "remedy" in parts.knobs("suite.measures", spec)]
    for job in trainings:
        width = _width(job, rows)
        variants = {job: list(measures)}
        for remedy in REMEDIES:
            if remedy.is_for(job) and (width or not remedy.positions):
                variants.setdefault(remedy.of(job, width), []).extend(map(remedy.measure, remediable))
        for variant, readings in variants.items():
            counted = ["size"] if variant.seed == 0 else []
            yield from (Cell(variant, measure) for measure in ("learning", *readings, *counted))


def of_reading(job: Job, arm: str, knob: str, arms: Sequence[str]) -> tuple[str, str]:
    """The arm without its remedy, and the remedy's name; empty for none. One of `arms` is an arm by itself.

    Own files, which may be a stranger's, are not read.
    """
    names = [{knob: knob, **{remedy.knob: remedy.name for remedy in REMEDIES}}[knob]] if knob else []
    if job.state_passing:
        names.append(next(remedy.name for remedy in REMEDIES if remedy.state_passing))
    for remedy in REMEDIES:
        if remedy.positions and arm not in arms and (without := _without(remedy, arm)) in arms:
            return without, " and ".join([remedy.name, *names])
    return arm, " and ".join(names)


def side(job: Job) -> str:
    """attention, recurrence, or empty for a hybrid and for an own mixer."""
    specs = parts.pattern(job.mixer)
    if any(parts.is_own("suite.mixers", spec) for spec in specs):
        return ""
    sides = {"recurrence" if passed else "attention" for passed in job.passes}
    return sides.pop() if len(sides) == 1 else ""


def check(job: Job) -> None:
    """ValueError where the remedies do not fit what is asked for."""
    if job.lengths or job.budget_seconds or job.batch < 2:
        raise ValueError(
            "states are passed in added steps, from window to window of a batch; wanted remedies without --lengths and "
            "--budget_seconds, and a --batch of at least 2"
        )


def _without(remedy: Remedy, arm: str) -> str:
    """The arm with rope where it has the positions of the remedy."""
    specs = parts.pattern(arm)
    if any(parts.is_own("suite.mixers", spec) for spec in specs):
        return arm
    back = [
        parts.with_knobs("suite.mixers", spec, dict([ROPE]))
        if (ROPE[0], remedy.positions) in parts.knobs("suite.mixers", spec).items()
        else spec
        for spec in specs
    ]
    return parts.short("suite.mixers", "+".join(back))


def _is_matched(job: Job) -> bool:
    return bool(job.match_to) and job.match != "none"


def _width(job: Job, rows: Sequence[Row]) -> int:
    """The width of the job's model; of a matched arm as its rows say, 0 before there is one."""
    if not _is_matched(job):
        return job.width
    model = alike.of_job(job, SHAPE)
    widths = (row["width"] for row in rows if row["outcome"] == "ok" and alike.of_row(row, SHAPE) == model)
    return next(widths, 0)


def _turns(spec: str) -> bool:
    """Whether a mixer has rope."""
    return ROPE in parts.knobs("suite.mixers", spec).items()


def _passes(spec: str) -> bool:
    """Whether a mixer says that its state has a fixed size."""
    try:
        return parts.constant("suite.mixers", spec, "STATE") != "cache"
    except LookupError:  # an own mixer that says nothing
        return False
