"""Disturbs a sweep at random moments for some minutes and compares its end, bit by bit, with an undisturbed one.

    python tests/soak.py --minutes=10 --out=out/soak
    python tests/soak.py --minutes=10 --out=out/soak --seed=1234567

Two workers share the sweep, each a job of two processes: four launch.compare, which are started again as an engine
would. They and their children are killed, terminated and stopped, and what lies on the disk is damaged. A sweep that is
over before the minutes are begins again in another directory. The seed is printed first.
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import programs

from suite.sweep import exit_codes, store

MINUTES = flags.DEFINE_float("minutes", 10.0, "how long it is disturbed")
OUT = flags.DEFINE_string("out", "out/soak", "directory; an undisturbed sweep that lies there is gone on with")
SEED = flags.DEFINE_integer("seed", None, "seed of the disturbances; drawn where it is not given")
EVERY = flags.DEFINE_float("every", 15.0, "mean seconds between two disturbances")
DATA_DIR = flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "where TFDS data sets lie")
STEPS = flags.DEFINE_integer("steps", 400, "of every training")

WORKERS = RANKS = 2
SWEEP = [
    *("--scale=smoke", "--claims=context_length", "--task=recall:pairs=2,vocab=16", "--length=16", "--width=16"),
    *("--batch=8", "--validate_every=100", "--record_every=10", "--validation_examples=16", "--test_examples=32"),
    *("--save_seconds=1", "--lease_seconds=6", "--patience=60"),
]
AGAIN = (exit_codes.PREEMPTED, exit_codes.STUCK, exit_codes.PEER_DIED, exit_codes.KILLED, 143)
HARMS = (
    "kill child",
    "kill compare",
    "terminate child",
    "terminate compare",
    "stop child",
    "crash and damage",
    "damage",
)


class Sweep:
    """The workers of one directory, kept running as an engine keeps them."""

    def __init__(self, out: pathlib.Path, workers: int):
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        self.flags = [*SWEEP, f"--steps={STEPS.value}", f"--data_dir={DATA_DIR.value}", f"--out={out}"]
        self.addresses = [programs.free_address() for _ in range(workers)]
        self.compares = {(worker, rank): self.start(worker, rank) for worker in range(workers) for rank in range(RANKS)}
        self.codes: collections.Counter[int] = collections.Counter()

    def start(self, worker: int, rank: int) -> subprocess.Popen:
        together = [f"--coordinator_address={self.addresses[worker]}", f"--num_processes={RANKS}"]
        argv = programs.command("compare", *self.flags, *together, f"--process_id={rank}")
        with open(self.out.with_name(f"{self.out.name}-{worker}-{rank}.log"), "ab") as log:
            return subprocess.Popen(argv, env=programs.environment(), stdout=log, stderr=log)

    def tend(self) -> bool:
        """Starts again what ended with a code that asks for it; whether all is over."""
        for (worker, rank), compare in self.compares.items():
            code = compare.poll()
            if code:
                self.codes[exit_codes.code_of_child(code)] += 1
                if exit_codes.code_of_child(code) not in AGAIN:
                    raise SystemExit(f"worker {worker}, rank {rank} ended with {code}; see {self.out}-*.log")
                self.compares[worker, rank] = self.start(worker, rank)
        return all(compare.poll() == 0 for compare in self.compares.values())

    def finish(self) -> None:
        while not self.tend():
            time.sleep(0.2)

    def living(self) -> list[subprocess.Popen]:
        return [compare for compare in self.compares.values() if compare.poll() is None]

    def disturb(self, harm: str, chance: random.Random) -> str:
        """Does one harm; what was done, or nothing where there was nothing to harm."""
        compares = self.living()
        if harm in ("kill compare", "terminate compare") and compares:
            compare = chance.choice(compares)
            compare.send_signal(signal.SIGKILL if harm == "kill compare" else signal.SIGTERM)
            return f"{harm} {compare.pid}"
        children = [child for compare in compares for child in children_of(compare.pid)]
        if harm == "damage":
            return self.damage(chance)
        if not children:
            return ""
        child = chance.choice(children)
        with contextlib.suppress(ProcessLookupError):
            if harm == "stop child":
                os.kill(child, signal.SIGSTOP)
                seconds = chance.uniform(1, 20)
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    self.tend()
                    time.sleep(0.2)
                os.kill(child, signal.SIGCONT)
                return f"{harm} {child} for {seconds:.1f} s"
            if harm == "crash and damage":
                return self.crash(chance)
            os.kill(child, signal.SIGKILL if harm == "kill child" else signal.SIGTERM)
        return f"{harm} {child}"

    def crash(self, chance: random.Random) -> str:
        """All of a worker's processes die at once, and the end of a file of rows that it wrote is lost."""
        worker = chance.randrange(WORKERS)
        compares = [compare for (of, _), compare in self.compares.items() if of == worker and compare.poll() is None]
        for pid in [pid for compare in compares for pid in [compare.pid, *children_of(compare.pid)]]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for compare in compares:
            compare.wait()
        pids = {compare.pid for compare in compares}
        torn = []
        for path in self.out.glob("runs/*/learning.jsonl"):
            # Of this worker's cell alone: the other goes on writing.
            record = json.loads(path.with_suffix(".cell").read_text())
            done = path.with_suffix(".done").exists()
            if not done and record["owner"] and path.stat().st_size and not self.is_live(record):
                os.truncate(path, path.stat().st_size - min(path.stat().st_size, chance.randrange(1, 400)))
                torn.append(path.parent.name)
        return f"crash worker {worker} {sorted(pids)} torn {torn} {self.damage(chance)}"

    def is_live(self, record: dict) -> bool:
        """Whether the newest owner of a cell is still a process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(record["attempts"][-1]["pid"], 0)
            return True
        return False

    def damage(self, chance: random.Random) -> str:
        """Flips a bit in a checkpoint, or cuts off its end."""
        found = [path for path in self.out.glob("runs/*/checkpoints/*.manifest") if path.stem.isdigit()]
        going_on = [path for path in found if not (path.parent.parent / "learning.done").exists()]
        if not going_on:
            return ""
        with contextlib.suppress(OSError):  # it may be removed just now
            step = chance.choice(going_on).with_suffix("")
            path = chance.choice([path for path in step.rglob("*") if path.is_file() and path.stat().st_size])
            content = bytearray(path.read_bytes())
            if chance.random() < 0.5:
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                path.write_bytes(content)
            else:
                os.truncate(path, chance.randrange(len(content)))
            return f"damage {path.relative_to(self.out)}"
        return ""


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def found_in(out: pathlib.Path) -> dict[str, list]:
    """All that does not depend on when and how often it was run: rows of every cell, and trained parameters."""
    dropped = ("seconds", "commit", "source")
    found = collections.defaultdict(list)
    for row in store.load(out):
        if not row["placed"]:
            kept = {key: value for key, value in row.items() if key not in dropped}
            found[f"{row['run_id']}/{row['measure']}"].append(kept)
    for job, run in store.survey(out).runs:
        if (run / "final").exists():
            found[f"{job.id}/final"] = [array.tobytes() for array in programs.final_of_run(job, run)]
    return found


def completions(out: pathlib.Path) -> collections.Counter[int]:
    """How many cells were run to their end how often; it must be once."""
    counts: collections.Counter[int] = collections.Counter()
    for path in out.glob("runs/*/*.cell"):
        ended = [attempt["ended"] for attempt in json.loads(path.read_text())["attempts"]]
        counts[sum(exit_codes.DONE in codes.values() for codes in ended)] += 1
    return counts


def compare(whole: pathlib.Path, disturbed: pathlib.Path) -> None:
    mine, theirs = found_in(disturbed), found_in(whole)
    assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
    different = [name for name in mine if mine[name] != theirs[name]]
    assert not different, different
    counts = completions(disturbed)
    assert set(counts) <= {0, 1}, counts
    attempts = sum(len(json.loads(path.read_text())["attempts"]) for path in disturbed.glob("runs/*/*.cell"))
    n_rows = sum(len(rows) for name, rows in mine.items() if not name.endswith("/final"))
    print(f"{disturbed}: {sum(counts.values())} cells, {attempts} attempts, completed {dict(counts)}; {n_rows} rows")
    print("and all trained parameters identical to the undisturbed sweep", flush=True)


def main(_: list[str]) -> None:
    seed = int.from_bytes(os.urandom(4)) if SEED.value is None else SEED.value
    print(f"--seed={seed}", flush=True)
    chance = random.Random(seed)
    out = pathlib.Path(OUT.value).resolve()
    for folder in out.glob("disturbed-*/"):
        shutil.rmtree(folder)
    began = time.monotonic()
    Sweep(out / "whole", 1).finish()
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    done: collections.Counter[str] = collections.Counter()
    codes: collections.Counter[int] = collections.Counter()
    began, number, sweep = time.monotonic(), 0, Sweep(out / "disturbed-0", WORKERS)
    due = began + chance.expovariate(1 / EVERY.value)
    while time.monotonic() < began + 60 * MINUTES.value:
        if sweep.tend():
            compare(out / "whole", sweep.out)
            codes += sweep.codes
            number += 1
            sweep = Sweep(out / f"disturbed-{number}", WORKERS)
        if time.monotonic() > due:
            harm = chance.choice(HARMS)
            told = sweep.disturb(harm, chance)
            if told:
                done[harm] += 1
                print(f"{time.monotonic() - began:6.1f} s  {told}", flush=True)
            due = time.monotonic() + chance.expovariate(1 / EVERY.value)
        time.sleep(0.2)
    sweep.finish()
    compare(out / "whole", sweep.out)
    codes += sweep.codes
    print(f"disturbances: {dict(done)}; exit codes of launch.compare: {dict(codes)}")


if __name__ == "__main__":
    app.run(main)
