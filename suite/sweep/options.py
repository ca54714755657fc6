"""The options of a process that runs cells: the flags of launch.job that do not define a job."""

import dataclasses
import math
import sys
from typing import Any

# Those that a program which starts such processes takes itself and passes on to them.
PASSED = (
    *("out", "mesh", "data_dir", "coordinator_address", "num_processes", "process_id"),
    *("patience", "save_seconds", "lease_seconds", "fault"),
)
MONTH = 30 * 24 * 3600.0  # seconds: the most that a flag may say


def _field(default: Any, help: str, minimum: float | None = None) -> Any:
    return dataclasses.field(
        default=default, metadata={"help": help, "choices": (), "minimum": minimum, "maximum": MONTH}
    )


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of launch.job beside those of the job, by their names."""

    out: str = _field("out/job", "directory of the records, which all processes of a job share")
    mesh: str = _field(
        "",
        "device mesh, as in data:2,fsdp:4: axes data, fsdp, context and model, of which one may go without its size; "
        "empty: all devices share the batch",
    )
    data_dir: str = _field("~/tensorflow_datasets", "directory of the TensorFlow Datasets: a path or gs://")
    trace: int = _field(0, "write a profiler trace of this many training steps, and measure nothing", 0)
    coordinator_address: str = _field(
        "", "host:port of process 0, a free port that no other job uses; empty: taken from the environment"
    )
    num_processes: int = _field(0, "number of processes; 0: taken from the environment", 0)
    process_id: int = _field(-1, "rank of this process in the job; -1: taken from the environment", -1)
    patience: float = _field(
        300.0,
        "seconds without a training step after which the process ends with exit code 124; a compilation may take ten "
        "times as long; the processes of a job wait so long for each other, and at least 60 seconds",
        1.0,
    )
    save_seconds: float = _field(300.0, "seconds between checkpoints; a validation saves one too", 0.1)
    lease_seconds: float = _field(30.0, "seconds of silence after which another worker takes over", 1.0)
    fault: str = _field("", "for tests: a fault to cause, as kind@step:rank")
    cells: str = _field("", "for launch.compare: file with the cells to run")
    seconds: float = _field(0.0, "seconds after which no further cell is begun; 0: run all cells", 0.0)
    check: bool = _field(False, "check that the job can run, print where it would, and run nothing")
    events: int = _field(-1, "for launch.compare: file descriptor of its pipe")

    def __post_init__(self) -> None:
        for name in ("patience", "save_seconds", "lease_seconds", "seconds"):
            if math.isnan(getattr(self, name)):
                raise ValueError(f"--{name} wants a number of seconds")

    @property
    def is_child(self) -> bool:
        """Whether a launch.compare has started this process and reads what happens."""
        return self.events >= 0

    def command(self) -> list[str]:
        """The command of a process with these options."""
        return [
            *(sys.executable, "-m", "launch.job"),
            *(f"--{name}={value}" for name, value in dataclasses.asdict(self).items()),
        ]
