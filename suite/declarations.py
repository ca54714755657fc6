"""What a measure's file declares: columns, needs and cost. They are read from its text: to import it takes JAX."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from suite import parts
from suite.job import Job
from suite.literals import formula

MEASURES = "suite.measures"
QUANTITY = re.compile(r"(?P<unit>\S+)(?: per (?P<per>\w+))?(?: as (?P<metric>\S+))?")
PLACEHOLDER = re.compile(r"\{(\w+)\}")
OF_EVERY_MEASURE = ("phase", "outcome", "turn", "error", "estimate_bytes", "estimated_from")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A measured column: its unit, the condition that it is divided by (empty: none), and its metric in results.csv."""

    unit: str
    per: str
    metric: str  # with {condition} where a row's value stands


@dataclasses.dataclass(frozen=True)
class Number:
    """One measured number of a row, as results.csv has it."""

    metric: str
    value: float


@dataclasses.dataclass(frozen=True)
class Columns:
    """The conditions of a measure's rows with their units, and the quantities of each phase."""

    measure: str
    conditions: dict[str, str]
    quantities: dict[str, dict[str, Quantity]]

    @property
    def first(self) -> str:
        """The phase that stands for all of them where nothing was measured."""
        return next(iter(self.quantities))

    def check(self, row: Mapping[str, Any]) -> None:
        """ValueError where a row has no outcome, or a column that is not declared."""
        phase = {"phase": self.first, **row}["phase"]
        if "outcome" not in row or phase not in self.quantities:
            raise ValueError(
                f"{self.measure}: wanted an outcome and a phase of QUANTITIES in each row; got {dict(row)}"
            )
        unknown = row.keys() - {*OF_EVERY_MEASURE, *self.conditions, *self.quantities[phase]}
        if unknown:
            listed = ", ".join(sorted(unknown))
            raise ValueError(f"{self.measure}: columns that neither CONDITIONS nor QUANTITIES name: {listed}")

    def numbers(self, row: Mapping[str, Any]) -> dict[str, Number]:
        """The measured numbers of a row by their columns; ValueError where a condition that they rest on is missing."""
        numbers: dict[str, Number] = {}
        try:
            quantities = {row["phase"]: {}, **self.quantities}[row["phase"]]
            for column, value in row.items():
                if column in quantities and isinstance(value, int | float) and not isinstance(value, bool):
                    quantity = quantities[column]
                    metric = PLACEHOLDER.sub(lambda match: str(row[match[1]]), quantity.metric)
                    numbers[column] = Number(metric, value / row[quantity.per] if quantity.per else value)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"a row lacks a condition: {error}") from error
        return numbers


def columns(measure: str) -> Columns:
    """The columns that a measure's file declares."""
    return _parse(measure, literals(measure))


def literals(measure: str) -> dict[str, Any]:
    """The declared columns as literals. Rows of a user's own measure carry them: no report opens the file of one."""
    return {name: parts.constant(MEASURES, measure, name) for name in ("CONDITIONS", "QUANTITIES")}


def columns_of(row: Mapping[str, Any]) -> Columns:
    """The columns of a stored row; ValueError where a user's own measure has left none that can be read."""
    if not parts.is_own(MEASURES, row["measure"]):
        return _of_the_suite(row["measure"])
    if "columns" not in row:
        raise ValueError("they do not say which columns were measured; run the measure again")
    return _parse(row["measure"], row["columns"])


_of_the_suite = functools.cache(columns)


def seconds(measure: str, job: Job, *, step: float, compilation: float) -> float:
    """A measure's SECONDS for a job of which a training step and its compilation take so many seconds."""
    names = {**vars(job), **parts.knobs(MEASURES, measure), "step": step, "compilation": compilation}
    names["budget_seconds"] = job.budget_seconds or math.inf
    return formula(str(parts.constant(MEASURES, measure, "SECONDS")), names)


def check(measure: str) -> None:
    """ValueError or LookupError where knobs or declarations are not what suite/measures/__init__.py says."""
    needs, placed, resumes = (parts.constant(MEASURES, measure, name) for name in ("NEEDS", "PLACED", "RESUMES"))
    try:
        if not (isinstance(needs, tuple) and isinstance(placed, bool) and isinstance(resumes, bool)):
            raise ValueError("wanted NEEDS as in ('learning',) and PLACED and RESUMES as True or False")
        for need in needs:
            parts.source(MEASURES, need)
        columns(measure)
        seconds(measure, Job(), step=1.0, compilation=1.0)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{measure}: {error.args[0]}") from error


def _parse(measure: str, declared: Any) -> Columns:
    match declared:
        case {"CONDITIONS": dict(conditions), "QUANTITIES": dict(phases)} if phases and _are_texts(conditions):
            parsed = {phase: _quantities(phase, units, conditions) for phase, units in phases.items()}
        case _:
            raise ValueError(
                "wanted CONDITIONS as in {'step': 'steps'} and QUANTITIES as in {'test': {'loss': 'nats'}}"
            )
    taken = Job.__dataclass_fields__.keys() & {*conditions, *itertools.chain(*phases.values())}
    if taken:
        raise ValueError(f"columns have the names of fields of a job, which every row has: {', '.join(sorted(taken))}")
    return Columns(measure, conditions, parsed)


def _quantities(phase: str, units: Any, conditions: Mapping[str, str]) -> dict[str, Quantity]:
    if not _are_texts(units):
        raise ValueError(f"wanted QUANTITIES of phase {phase} as in {{'loss': 'nats'}}; got {units!r}")
    parsed = {}
    for column, text in units.items():
        match = QUANTITY.fullmatch(text)
        if match is None:
            raise ValueError(f"cannot read {text!r} of {column}; wanted 's', 's per read' or 's per read as seconds'")
        quantity = Quantity(match["unit"], match["per"] or "", match["metric"] or f"{phase}_{column}")
        missing = {quantity.per, *PLACEHOLDER.findall(quantity.metric)} - {"", "phase", *conditions}
        if missing:
            raise ValueError(f"{text!r} of {column} names {', '.join(missing)}; wanted names of CONDITIONS")
        parsed[column] = quantity
    return parsed


def _are_texts(pairs: Any) -> bool:
    return isinstance(pairs, dict) and all(isinstance(text, str) for pair in pairs.items() for text in pair)
