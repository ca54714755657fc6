"""The schedule of launch.inference: what each arm needs to read and to write, as contexts and sequences grow."""

import dataclasses
import json
from collections.abc import Iterable

from suite import parts
from suite.job import Cell, Job
from suite.sweep.record import Row

FILE = "inference.json"  # under --out, from which a report knows what was asked
GROUP = "inference"  # begins the names of groups whose arms take turns


@dataclasses.dataclass(frozen=True)
class Serving:
    """Arms, the first of which the others are matched to, and how far each is looked at."""

    arms: tuple[str, ...]
    job: Job  # of one example a step; its sizes are those of every arm
    shortest: int  # tokens of context
    longest: int
    longest_trained: int  # tokens of an example, and of all in a step where these are held constant
    most_sequences: int  # at once
    most_tokens: int  # that are looked for as the longest context that fits
    memory_bytes: int  # of a device that count; 0 for all
    processes: int  # fresh processes of a timing in turns

    def cells(self, rows: list[Row]) -> list[Cell]:
        """All cells; what was measured makes no others."""
        del rows
        timed = [cell for repeat in range(self.processes) for cell in self._in_turns(repeat)]
        peak = Cell(self.arm(self.arms[0]), "peak")
        alone = (cell for mixer in self.arms for cell in self._alone(mixer))
        return list(dict.fromkeys([peak, *timed, *alone]))

    def first_cells(self) -> list[Cell]:
        """Those that are known before anything is measured: all."""
        return self.cells([])

    def on(self, devices: int) -> "Serving":
        """The schedule with its steps for so many devices over which examples are split."""
        return dataclasses.replace(self, job=self.job.replace(batch=self.job.batch * devices))

    def with_seconds(self, rows: Iterable[Row]) -> set[Cell]:
        """The cells that need the machine for themselves beside those that depend on the place: none."""
        del rows
        return set()

    def describe(self, place: Row, command: list[str]) -> tuple[str, str]:
        """The file, and its content, from which a report knows what was asked."""
        del place  # rows say theirs
        return FILE, json.dumps({"arms": list(self.arms), "command": command}, indent=1) + "\n"

    def arm(self, mixer: str, **changes: int) -> Job:
        """The job of an arm, matched to the first unless it is that."""
        job = self.job.replace(mixer=mixer, **{"length": self.shortest, **changes})
        return job if mixer == self.arms[0] else job.replace(match_to=self.arms[0])

    @property
    def lengths(self) -> list[int]:
        """Of the examples that are trained on: each twice the one before."""
        steps = range((self.longest_trained // self.shortest).bit_length())
        return [self.shortest << step for step in steps]

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Length and batch of the training steps: at a constant batch, and at a constant number of tokens."""
        constant = self.lengths[-1] * self.job.batch
        return [
            (length, batch) for length in self.lengths for batch in dict.fromkeys([self.job.batch, constant // length])
        ]

    def _in_turns(self, repeat: int) -> Iterable[Cell]:
        """What is compared by ratios: arms take turns."""
        contexts = f"longest={self.longest},shortest={self.shortest},memory_bytes={self.memory_bytes}"
        groups = {
            "first token": f"first_token:{contexts}",
            "constant tokens": f"first_token:tokens={self.longest},{contexts}",
            "latency": f"token_latency:{contexts}",
        }
        for name, spec in groups.items():
            measure = parts.short("suite.measures", spec)
            yield from (Cell(self.arm(mixer), measure, repeat, f"{GROUP} {name}") for mixer in self.arms)
        step_time = parts.short("suite.measures", "step_time:blocks=4,warmup=2")
        for length, batch in self.steps:
            jobs = [self.arm(mixer, length=length, batch=batch) for mixer in self.arms]
            yield from (Cell(job, step_time, repeat, f"{GROUP} T={length} B={batch}") for job in jobs)

    def _alone(self, mixer: str) -> Iterable[Cell]:
        """What fills the memory, and what tells why a step takes as long as it does: sizes, and its chain."""
        yield from (Cell(self.arm(mixer, length=length), "size") for length in self.lengths)
        chain = parts.short("suite.measures", "chain:blocks=4")
        steps = [] if self.job.microbatch else self.steps  # a chain is of a whole batch
        yield from (Cell(self.arm(mixer, length=length, batch=batch), chain) for length, batch in steps)
        memory = f"memory_bytes={self.memory_bytes}"
        contexts = f"longest={self.longest},shortest={self.shortest},most={self.most_sequences}"
        most = f"most_tokens={self.most_tokens},most_sequences={self.most_sequences}"
        for spec in (f"throughput:{contexts},{memory}", f"largest:context={self.shortest},{most},{memory}"):
            yield Cell(self.arm(mixer), parts.short("suite.measures", spec))
