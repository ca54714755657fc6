"""The schedule of a search for crossovers: what suite/sweep/comparison.py runs, beside the Plan of claims."""

import dataclasses
import json

from suite import learning_rates
from suite.job import Cell
from suite.judging import crossover
from suite.judging.crossover import Question
from suite.sweep.record import Row
from suite.sweep.store import CROSSOVERS


@dataclasses.dataclass(frozen=True)
class Search:
    """Questions of one quantity, the first arm against each other one, which are searched side by side."""

    questions: tuple[Question, ...]
    name: str  # of its file, which no other search has

    def cells(self, rows: list[Row]) -> list[Cell]:
        """The cells that choose learning rates, until these are known; then all that the searches have asked for.

        Given the rows, they are the same until these are measured.
        """
        untuned = [job for one in self.questions for job in crossover.untuned(one, rows)]
        if untuned:
            return list(dict.fromkeys(learning_rates.cells(learning_rates.to_tune(untuned), rows)))
        return list(dict.fromkeys(cell for one in self.questions for cell in crossover.cells(one, rows)))

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured."""
        return self.cells([])

    def on(self, devices: int) -> "Search":
        """The search with its batches for so many devices over which examples are split."""
        return dataclasses.replace(self, questions=tuple(one.on(devices) for one in self.questions))

    def with_seconds(self, rows: list[Row]) -> set[Cell]:
        """The cells that need the machine for themselves beside those that depend on the place: none."""
        del rows
        return set()

    def describe(self, place: Row, command: list[str]) -> tuple[str, str]:
        """The file, and its content, from which a report knows what was asked."""
        del place  # rows say theirs
        questions = [question.to_dict() for question in self.questions]
        return f"{CROSSOVERS}/{self.name}.json", json.dumps(
            {"questions": questions, "command": command}, indent=1
        ) + "\n"
