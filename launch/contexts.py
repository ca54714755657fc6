"""Trains arms on a task at one length, and reads them at shorter lengths and at up to 16 times the trained one.

    python -m launch.contexts --arms=attention,lstm,mamba2 --task=needle --length=64 --out=out/contexts
    python -m launch.contexts --arms=attention --arms=lstm --task=variable_tracking:hops=1 --length=64 --seeds=3
    python -m launch.contexts --arms=attention,lstm,mamba2 --task=text --out=out/text

An arm is one side of the comparison: a mixer (attention, an LSTM, ...) with its knobs; the others have as many
parameters as the first. Each is trained with several seeds, at a learning rate that is tuned first where the table that
ships has none for it. The report shows accuracy by length, by distance, and by depth as a heat map, and in a table like
RULER's the effective context: the longest length at which an arm still answers. Of text it shows on which kinds of
bytes an arm gains, and the loss by the number of tokens before the target.

--scale and the flags of launch.job say how large the models are and how long they train. The same command again goes on
where it was.
"""

from absl import flags

import launch
from launch import studies
from suite.scale import PAIR
from suite.sweep import reading, remedies
from suite.sweep.reading import SIZES, Reading

SCALE = flags.DEFINE_enum("scale", "laptop", list(SIZES), "how large the models are and how long they train")
ARMS = flags.DEFINE_multi_string("arms", list(PAIR), studies.ARMS)
SEEDS = flags.DEFINE_integer(
    "seeds",
    0,
    "trainings of each arm, of other examples and other initial weights; 0: as many as the scale has",
    lower_bound=0,
)
LONGEST = flags.DEFINE_integer(
    "longest",
    0,
    f"the longest length that is read, in trained lengths; 0: {reading.LONGEST}, of text {reading.LONGEST_TEXT}",
    lower_bound=0,
)
GROWTH = flags.DEFINE_integer("growth", 2, "how many times a length is the next shorter one", lower_bound=2)
DEPTHS = flags.DEFINE_integer("depths", 10, "parts of the depth in the heat map; 0 for none", lower_bound=0)
RATES = studies.define_rates()
REMEDIES = flags.DEFINE_bool(
    "remedies",
    False,
    "also what is known to help beyond the trained length: of attention other positions (interpolation and NTK of "
    "rope, ALiBi, none), of recurrences a tenth more steps that pass states from window to window (state passing)",
)
WORKERS = studies.define_workers()
OWN = ("scale", "arms", "seeds", "longest", "growth", "depths", "rates", "remedies")
STUDY = studies.Study("contexts", own=OWN, without=("match_to", "seed"))
STUDY.declare()


def main() -> int:
    return STUDY.run(chosen, WORKERS.value)


def chosen() -> Reading:
    """What the command line asks for."""
    task = str(flags.FLAGS["task"].value) if flags.FLAGS["task"].present else reading.TASK
    size = reading.size(SCALE.value)
    job = STUDY.job(size.job(task))
    if REMEDIES.value:
        remedies.check(job)
    return Reading(
        arms=studies.arms(ARMS.value),
        job=job,
        seeds=SEEDS.value or size.seeds,
        measures=reading.measures(job.task, LONGEST.value, GROWTH.value, DEPTHS.value),
        rates="" if flags.FLAGS["learning_rate"].present else RATES.value,
        remedied=REMEDIES.value,
    )


if __name__ == "__main__":
    launch.run(main)
