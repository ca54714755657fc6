"""Looks at this host, or at all processes of a job, within ten seconds, and says in one line what is wrong with which.

    python -m launch.doctor --out=out/here
    srun python -m launch.doctor --out=/shared/out

It is started like launch.job: by itself, or in every process of a job at once. What cannot work is refused with exit
code 70: processes that differ in source, libraries, flags or devices, that do not reach each other or do not see one
--out; a disk without room, gs:// without a way to it, a GPU or TPU that JAX does not use or that another process has.
Else it prints a table of the processes (what a product of matrices takes the slowest device of each, free space, how
far clocks are apart) and the rate of an all-reduce. Where a job has several processes, launch.job and launch.compare do
the same before their first cell.
"""

import time
from typing import Any

from absl import flags

import launch
from suite import job as jobs
from suite.sweep import exit_codes, startup
from suite.sweep.options import Options

# Those of launch.job that say where it is to run.
PLACE = ("coordinator_address", "num_processes", "process_id", "data_dir")
OUT = launch.define_directory("out", "out/doctor", Options.__dataclass_fields__["out"].metadata["help"])
jobs.define_flags(Options, leave_out=tuple(name for name in Options.__dataclass_fields__ if name not in PLACE))
PATIENCE = flags.DEFINE_float("patience", 6.0, "seconds that the processes of a job wait for each other", 1.0)


def main() -> int:
    with exit_codes.door():
        place: dict[str, Any] = {name: flags.FLAGS[name].value for name in PLACE}
        options = Options(out=OUT.value, patience=PATIENCE.value, **place)
        startup.tell_xla()
    from suite.sweep import joining, processes  # JAX, which reads what was told

    asked = {"started by": "launch.doctor"}
    try:
        with exit_codes.door():
            joining.join(options, lambda: ([], asked), time.monotonic, time.time, is_doctor=True)
    except exit_codes.NotMet as error:
        exit_codes.refuse(f"{error}; do all processes run, and is the port open between their hosts?")
    processes.leave()
    return exit_codes.DONE


if __name__ == "__main__":
    launch.run(main)
