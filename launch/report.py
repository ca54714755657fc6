"""Draws the report of the records in a directory, also while they are being written.

    python -m launch.report --out=out/compare
    python -m launch.report --out=out/compare --threshold=parallelism.threshold=5
    python -m launch.report --out=out/compare --claims=./mine.py
    python -m launch.report --diff out/before out/after
    python -m launch.report --out=out/compare --prune

It writes report.html, report.md, report.json, results.csv and figures/ into that directory or into --to, and under
--threshold into rejudged/ below it. --diff writes diff.html and diff.md into the second directory or into --to.

The report opens and runs no file that the records name, so they may be a stranger's. --claims judges your own claims.
"""

import sys
from collections.abc import Iterable

from absl import flags
from etils import epath

import launch
from suite.sweep import exit_codes

OUT = launch.define_directory(
    "out", "out/compare", "directory of the records, as given to launch.compare or launch.job"
)
THRESHOLD = flags.DEFINE_multi_string(
    "threshold",
    [],
    "claim.name=value: judge under your own threshold, not the claim's; repeat the flag for more",
)
CLAIMS = flags.DEFINE_multi_string("claims", [], "files of your own claims, to judge beside those of the comparison")
TO = launch.define_directory(
    "to", None, "directory to write to; without it that of the records, or the second of --diff"
)
DIFF = flags.DEFINE_multi_string("diff", [], "two directories whose results are set side by side: --diff A B")

PRUNE = flags.DEFINE_bool(
    "prune",
    False,
    "draw no report; remove what is no longer needed: checkpoints of done trainings, the cache",
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "with --prune: list what would be removed")


def main() -> int:
    if DRY_RUN.value and not PRUNE.value:
        exit_codes.refuse("--dry_run is for --prune; a report of a directory removes nothing")
    if PRUNE.value:
        for flag in (THRESHOLD, CLAIMS, TO, DIFF):
            if flag.present:
                exit_codes.refuse(f"--prune draws no report; leave it or --{flag.name} out")
        with exit_codes.door():
            prune(epath.Path(OUT.value))
        return 0
    from suite import files, parts, report  # here, not above: --help answers at once
    from suite.report import diff

    to = epath.Path(TO.value) if TO.value else None
    more_claims = [spec for value in CLAIMS.value for spec in parts.split_list(value)]
    if DIFF.value:
        if len(DIFF.value) != 2:
            exit_codes.refuse(f"--diff wants two directories; got {len(DIFF.value)}: {', '.join(DIFF.value)}")
        if THRESHOLD.value:
            exit_codes.refuse("--threshold is for the report of one directory; leave it or --diff out")
        if OUT.present:
            exit_codes.refuse("--diff reads two directories and --out names one; --to says where diff.html is written")
        with exit_codes.door():
            first, second = map(files.root, DIFF.value)
            one, other = (report.read(root, (), more_claims) for root in (first, second))
            path = diff.write(one, other, to or second)
        tell(f"{name}: {problem}" for name, records in (("A", one), ("B", other)) for problem in records.problems)
        print(f"side by side: {path}")
        return 0
    with exit_codes.door():
        path = report.write(epath.Path(OUT.value), THRESHOLD.value, more_claims, to)
    tell(map(str, report.problems(path.parent)))
    print(f"report: {path}")
    print(report.headline(path.parent))
    return 0


def prune(out: epath.Path) -> None:
    """Removes what a directory needs no more, a line for each thing and one for all."""
    from suite import files
    from suite.sweep import prune

    if not (out / "runs").exists():
        raise ValueError(f"no records in {out}; wanted the --out of a launch.compare or a launch.job")
    n_files, n_bytes = prune.size(out)
    needless = prune.find(out)
    for one in needless:
        print(f"{one.bytes / 1e6:10.3f} MB  {one.path}")
        if not DRY_RUN.value:
            files.remove(one.path)
    pruned, freed = sum(one.files for one in needless), sum(one.bytes for one in needless)
    done = "would be removed" if DRY_RUN.value else "removed"
    of_all = f"{n_files:,} files and {n_bytes / 1e6:,.1f} MB"
    print(f"{pruned:,} files and {freed / 1e6:,.1f} MB of {of_all} {done}")


def tell(problems: Iterable[str]) -> None:
    """What is left out of a report, a line for each."""
    for problem in problems:
        print(f"crossover: {problem}", file=sys.stderr)


if __name__ == "__main__":
    launch.run(main, more=DIFF)
