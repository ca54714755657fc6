"""Nuisance factors: conditions of a training, as its budget, that a verdict must not turn with.

The setting of a training is every field of its job but the arm, the seed, the learning rate and what is recorded. Of a
task at a length the setting with the most trainings is the base; one that differs from it in a declared factor alone is
a level of that factor; all others are left out and named. Nothing is pooled that differs.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from suite.judging import alike
from suite.sweep.record import Row

RECORDING = ("record_every", "validate_every", "validation_examples", "test_examples", "microbatch", "remat")
FIELDS = tuple(name for name in alike.CONDITIONS if name not in RECORDING)
LONGER, TAPS = 4, 4  # the other level of the budget, times the steps, and that of the short convolution
NAMES = {"steps": "the budget", "short_conv": "the short convolution", "block": "the block"}

Setting = tuple  # the values of FIELDS


class Level(NamedTuple):
    """The rows of a claim at one level of a factor: an arm that was trained there has those trainings alone."""

    factor: str  # a field of the job
    label: str  # of the level, for a sentence
    rows: list[Row]


class Split(NamedTuple):
    """The rows of a claim at the base of all its factors, their levels, and the settings that are left out."""

    base: list[Row]
    levels: list[Level]
    left_out: list[str]


def for_longer(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a training of LONGER times the steps."""
    return {**sizes, **{name: LONGER * int(sizes[name]) for name in ("steps", "validate_every")}}


def settings(rows: Iterable[Row]) -> dict[Setting, list[Row]]:
    """Trainings by their setting, the one with the most of them first; of several the one with the fewest steps."""
    by_setting: dict[Setting, list[Row]] = defaultdict(list)
    for row in rows:
        by_setting[alike.of_row(row, FIELDS)].append(row)

    def order(setting: Setting) -> tuple:
        runs = {row["run_id"] for row in by_setting[setting]}
        return -len(runs), setting[FIELDS.index("steps")], *map(str, setting)

    return {setting: by_setting[setting] for setting in sorted(by_setting, key=order)}


def split(
    rows: Sequence[Row], trainings: Iterable[Row], factors: Sequence[str], judged: Sequence[Collection[str]]
) -> Split:
    """Splits the rows of a claim whose verdict rests on `trainings`, some of these rows.

    A level counts where each of the `judged`, sets of arms, was trained at it, and a budget where it is a larger one.
    """
    rests_on = {id(row) for row in trainings}
    base = [row for row in rows if id(row) not in rests_on]
    other: dict[tuple[str, str], list[Row]] = defaultdict(list)
    left_out = []
    by_task: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        if id(row) in rests_on:
            by_task[row["task"], row["length"]].append(row)
    for _, of_task in sorted(by_task.items()):
        main, *others = settings(of_task).items()
        base += main[1]
        for setting, of_setting in others:
            differ = [name for name, one, two in zip(FIELDS, main[0], setting, strict=True) if one != two]
            index = FIELDS.index(differ[0])
            value, base_value = setting[index], main[0][index]
            is_level = len(differ) == 1 and differ[0] in factors
            if is_level and not (differ[0] == "steps" and value < base_value):
                other[differ[0], label(differ[0], value, base_value)] += of_setting
            else:
                left_out.append(_described(of_setting, differ))
    levels = []
    for (factor, name), of_level in sorted(other.items()):
        trained = {row["arm"] for row in of_level}
        if all(trained & set(arms) for arms in judged):
            replaced = {(row["task"], row["length"], row["arm"]) for row in of_level}
            kept = [
                row
                for row in base
                if id(row) not in rests_on or (row["task"], row["length"], row["arm"]) not in replaced
            ]
            levels.append(Level(factor, name, kept + of_level))
        else:
            left_out.append(f"{_described(of_level, [factor])}: not trained by both sides")
    return Split(base, levels, left_out)


def label(factor: str, value: Any, base: Any) -> str:
    """A level in words: "at 4 times the steps"."""
    if factor == "steps":
        return f"at {value / base:g} times the steps"
    if factor == "short_conv":
        return f"with a short convolution of {value} taps" if value else "without a short convolution"
    return f"with {factor} {value}"


def _described(rows: Sequence[Row], differ: Sequence[str]) -> str:
    row = rows[0]
    fields = ", ".join(f"{name} {row['reference_width' if name == 'width' else name]}" for name in differ)
    arms = sorted({row["arm"] for row in rows})
    runs = len({row["run_id"] for row in rows})
    return f"{runs} training{'s' if runs > 1 else ''} of {', '.join(arms)} at length {row['length']} with {fields}"
