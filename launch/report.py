"""Draws the report of a directory, at any moment, from the records that are there.

    python -m launch.report --out=out/compare

It writes report.html, report.md, report.json, results.csv and figures/ there.
"""

from absl import flags
from etils import epath

import launch

OUT = flags.DEFINE_string("out", "out/compare", "directory of the records, as given to launch.compare or launch.job")


def main() -> int:
    from suite import report  # here, not above: --help answers at once

    out = epath.Path(OUT.value).expanduser()
    if not (out / "compare.json").exists() and not (out / "runs").exists():
        launch.refuse(f"no records in {out}; give the --out of a launch.compare or a launch.job")
    with launch.door():
        path = report.write(out)
    print(f"report: {path}")
    print(report.headline(out))
    return 0


if __name__ == "__main__":
    launch.run(main)
