"""Draws the report of a directory, at any moment, from the records that are there.

    python -m launch.report --out=out/compare
    python -m launch.report --out=out/compare --threshold=parallelism.threshold=5
    python -m launch.report --diff out/before out/after

It writes report.html, report.md, report.json, results.csv and figures/ there; under thresholds of your own it writes
them into rejudged/ there. Of two directories it writes diff.html and diff.md, into the second or into --out.
"""

from absl import flags
from etils import epath

import launch

OUT = flags.DEFINE_string("out", "out/compare", "directory of the records, as given to launch.compare or launch.job")
THRESHOLD = flags.DEFINE_multi_string(
    "threshold", [], "claim.name=value: judge the stored rows under a threshold of your own; repeat the flag for more"
)
DIFF = flags.DEFINE_multi_string("diff", [], "two directories to set side by side: --diff A B")


def main() -> int:
    from suite import report  # here, not above: --help answers at once

    if DIFF.value:
        if len(DIFF.value) != 2:
            launch.refuse(f"--diff wants two directories; got {len(DIFF.value)}: {', '.join(DIFF.value)}")
        if THRESHOLD.value:
            launch.refuse("--threshold is for the report of one directory; leave it or --diff out")
        first, second = (epath.Path(folder).expanduser() for folder in DIFF.value)
        with launch.door():
            path = report.write_diff(first, second, epath.Path(OUT.value).expanduser() if OUT.present else second)
        print(f"side by side: {path}")
        return 0
    with launch.door():
        path = report.write(epath.Path(OUT.value).expanduser(), THRESHOLD.value)
    print(f"report: {path}")
    print(report.headline(path.parent))
    return 0


if __name__ == "__main__":
    launch.run(main, more=DIFF)
