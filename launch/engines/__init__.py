"""Engines: the places that launch.submit hands a command to, one file each.

A file defines

    render(argv, place, *, knobs) -> Submission     the files that the engine reads, and the commands that submit them;
                                                    ValueError where it cannot do so with such a place or such knobs

and nothing else: `render` reads nothing and runs nothing, so that all an engine does can be printed and tested without
it. What only one engine needs is a knob, as in `slurm:partition=gpu`. An engine places processes and starts them again
by their exit codes (suite/sweep/exit_codes.py); it schedules no cells: workers share those of one --out by themselves.
"""

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from suite.sweep import exit_codes

PORT = 61000  # of process 0 where its host has no other job; above the ports that a system gives out by itself


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a command runs, as far as it is the same for every engine."""

    name: str = "crossover"  # of the job
    folder: str = "submitted"  # where the rendered files lie when the commands are run
    python: str = "python"  # the interpreter of the machine that submits
    workers: int = 1  # that share the cells of one --out, each a job of its own
    nodes: int = 1  # of each worker
    tasks_per_node: int = 1  # processes on each node


class Submission(NamedTuple):
    """The files of a submission by their names, and the commands that are then run, all at once."""

    files: dict[str, str]
    commands: list[list[str]]


def worker_names(place: Place) -> list[str]:
    """A name for each worker, where an engine takes them one by one."""
    return [place.name] if place.workers == 1 else [f"{place.name}-{number}" for number in range(place.workers)]


def shell_pattern(codes: Iterable[int]) -> str:
    """Exit codes as a pattern of the shell's `case`."""
    return " | ".join(map(str, codes))


def restarting(argv: Sequence[str], restarts: int, always: Sequence[int] = exit_codes.RESTARTED) -> str:
    """Lines of bash that run a command and start it again by its exit code, until it is done or $stopping is set."""
    return f"""\
failures=0
while true; do
    {shlex.join(argv)} &
    child=$!
    wait $child
    code=$?
    if [ "$stopping" ]; then
        wait $child  # again: the signal has interrupted it
        exit $?
    fi
    case $code in
{"".join(f"        {code}) ;;{chr(10)}" for code in always)}\
        {shell_pattern(exit_codes.RESTARTED_A_FEW_TIMES)})
            failures=$((failures + 1))
            [ $failures -le {restarts} ] || exit $code
            ;;
        *) exit $code ;;
    esac
done
"""


def check_bucket(argv: Sequence[str], engine: str) -> None:
    """ValueError where the records would stay on machines that are given back."""
    if not any(word.startswith("--out=") and "://" in word for word in argv):
        raise ValueError(f"{engine} gives its machines back: wanted an --out in a bucket, as --out=gs://BUCKET/out")


def check_one_process(place: Place, engine: str, most_nodes: int | None = None) -> None:
    """ValueError where an engine that starts one process a node, on so many nodes at most, is asked for more."""
    if place.tasks_per_node > 1:
        raise ValueError(f"{engine} starts one process a node, not {place.tasks_per_node}; leave --tasks_per_node out")
    if most_nodes is not None and place.nodes > most_nodes:
        raise ValueError(f"{engine} has {most_nodes} node, not {place.nodes}; leave --nodes out")
