"""Hands a command to an engine that runs it, and starts it again by its exit code.

    python -m launch.submit --engine=slurm:partition=gpu,time=04:00:00 --workers=2 -- launch.compare --out=/shared/out
    python -m launch.submit --engine=local --dry_run -- launch.job --mixer=lstm --out=out/lstm

After `--` stands the same command as without an engine: launch.compare, launch.job, launch.doctor, launch.crossover,
launch.inference, launch.contexts or launch.recall with its flags. Each of --workers runs it, on as many --nodes with as
many --tasks_per_node, and all share the cells of its --out. What only one engine needs are knobs of its spec;
launch/engines/ has a file for each.
"""

import contextlib
import pathlib
import shlex
import shutil
import subprocess
import sys

from absl import flags

import launch
from launch.engines import Place, Submission
from suite import parts
from suite.sweep import exit_codes

FOLDER = "launch.engines"
PROGRAMS = (
    *("launch.compare", "launch.job", "launch.doctor", "launch.crossover", "launch.inference", "launch.contexts"),
    "launch.recall",
)
# Flags of those programs that are the engine's to give.
OF_THE_ENGINE = ("--coordinator_address", "--num_processes", "--process_id")

ENGINE = flags.DEFINE_string(
    "engine", "local", f"engine with its knobs, as in slurm:partition=gpu; known: {', '.join(parts.names(FOLDER))}"
)
WORKERS = flags.DEFINE_integer("workers", Place.workers, "jobs that share the cells of one --out", lower_bound=1)
NODES = flags.DEFINE_integer("nodes", Place.nodes, "nodes of each worker", lower_bound=1)
TASKS_PER_NODE = flags.DEFINE_integer(
    "tasks_per_node", Place.tasks_per_node, "processes on each node, which share its devices", lower_bound=1
)
NAME = flags.DEFINE_string("name", Place.name, "name of the job at the engine")
TO = flags.DEFINE_string("to", Place.folder, "directory of this machine for the files that the engine reads")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the files and the commands, and submit nothing")


def main(*command: str) -> int:
    with exit_codes.door():
        argv = program(command)
        module, knobs = parts.load(FOLDER, ENGINE.value)
        for value in [NAME.value, TO.value, *map(str, knobs.values())]:
            if shlex.quote(value) not in (value, "''"):
                raise ValueError(f"cannot hand {value!r} to an engine; wanted letters, digits and ._/:@%+=-")
        if "://" in TO.value:
            raise ValueError(f"--to wants a directory of this machine, not {TO.value}")
        place = Place(NAME.value, TO.value, sys.executable, WORKERS.value, NODES.value, TASKS_PER_NODE.value)
        own = parts.is_own(FOLDER, ENGINE.value)
        with parts.own_lines(FOLDER, ENGINE.value) if own else contextlib.nullcontext():
            submission = module.render(argv, place, **knobs)
        if not DRY_RUN.value:
            missing = [name for name, *_ in submission.commands if not shutil.which(name)]
            if missing:
                raise ValueError(f"no program {missing[0]!r} on this machine; --dry_run prints what it would be given")
    if argv[0] == "launch.compare":
        checked = subprocess.run([sys.executable, "-m", *argv, "--dry_run"], stdout=subprocess.DEVNULL, check=False)
        if checked.returncode:
            return checked.returncode  # it has said why
    if DRY_RUN.value:
        show(submission)
        return exit_codes.DONE
    with exit_codes.door():
        pathlib.Path(TO.value).mkdir(parents=True, exist_ok=True)
        for name, text in submission.files.items():
            (pathlib.Path(TO.value) / name).write_text(text)
    return run(submission.commands)


def program(command: tuple[str, ...]) -> list[str]:
    """The words of the command from the program's name on; ValueError where an engine cannot run it."""
    words = list(command[command.index("-m") + 1 :] if "-m" in command[:2] else command)
    if not words or words[0] not in PROGRAMS:
        raise ValueError(f"wanted -- and a command of {', '.join(PROGRAMS)}, not {shlex.join(command)!r}")
    names = [word.partition("=")[0] for word in words]
    if not any(word.startswith("--out=") for word in words):
        raise ValueError(f"{words[0]} wants an --out=DIRECTORY that all workers see")
    for name in OF_THE_ENGINE:
        if name in names:
            raise ValueError(f"{name} is the engine's to give; leave it out")
    return words


def show(submission: Submission) -> None:
    """Prints the files and the commands."""
    for name, text in submission.files.items():
        print(f"# {TO.value}/{name}\n{text}")
    for command in submission.commands:
        print(f"$ {shlex.join(command)}")


def run(commands: list[list[str]]) -> int:
    """Runs the commands, all at once; the first exit code that is not 0, 70 for one of another program's own.

    Notice is passed on, and waited for.
    """
    processes = [subprocess.Popen(command) for command in commands]
    try:
        codes = [process.wait() for process in processes]
    except exit_codes.Stopped as stopped:
        for process in processes:
            if stopped.code == exit_codes.PREEMPTED:  # an interrupt the terminal has sent to all
                process.terminate()
        for process in processes:
            process.wait()
        raise
    code = next((exit_codes.code_of_child(code) for code in codes if code), exit_codes.DONE)
    return code if code in exit_codes.ALL else exit_codes.REFUSED


if __name__ == "__main__":
    launch.run(main, command=True)
