"""The options of a process that runs cells: the flags of launch.job that do not define a job."""

import dataclasses
import sys


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of launch.job beside those of the job, by their names."""

    out: str = "out/job"
    mesh: str = ""
    data_dir: str = "~/tensorflow_datasets"
    trace: int = 0
    coordinator_address: str = ""
    num_processes: int = 0
    process_id: int = -1
    patience: float = 300.0
    save_seconds: float = 300.0
    lease_seconds: float = 30.0
    fault: str = ""
    cells: str = ""
    seconds: float = 0.0
    check: bool = False
    events: int = -1

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
