"""This machine: workers side by side, each started again by its exit code, until all are done.

What is timed wants the machine for itself: then let --workers be 1.
"""

from collections.abc import Sequence

from launch.engines import Place, Submission, check_one_process, restarting

BOUNDS = {"restarts": (0, 1000)}


def render(argv: Sequence[str], place: Place, *, restarts: int = 10) -> Submission:
    check_one_process(place, "local", most_nodes=1)
    script = f"""\
#!/bin/bash
stopping=
trap 'stopping=yes' INT  # which the terminal has sent to the command too
trap 'stopping=yes; kill $child' TERM
{restarting([place.python, "-m", *argv], restarts)}"""
    return Submission({"local.sh": script}, [["bash", f"{place.folder}/local.sh"]] * place.workers)
