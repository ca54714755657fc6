"""The report: verdicts on made-up timings, derived numbers, and files that can be read at any moment."""

import csv
import html.parser
import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from suite import report, store
from suite.claims import Figure, Finding, Point, parallelism
from suite.job import Job
from suite.report import charts, derive, records, results
from suite.store import Row

GPU = {"platform": "gpu", "device_kind": "NVIDIA H200", "n_devices": 1, "place": "nvidia-h200-data1"}
CPU = {"platform": "cpu", "device_kind": "Some CPU", "n_devices": 1, "place": "some-cpu-2-cores-data1"}
JOB = Job(width=64, length=1024, batch=4)
LSTM = JOB.replace(mixer="lstm", match_to="attention")
COLUMNS = (
    "run_id arm task block conv match seed rate params flops_per_token tokens train_length eval_length batch n_devices "
    "device_kind dtype form metric value n outcome"
)


def conditions(job: Job, measure: str, place: Row, repeat: int = 0, group: str = "") -> Row:
    placed = measure.split(":")[0] in ("step_time", "peak")
    facts = {"measure": measure, "repeat": repeat, "group": group, "placed": placed, "run_id": job.id, "arm": job.arm}
    facts |= {
        "width": 56 if job.match_to else job.width,
        "params": 113984,
        "params_mismatch": 0.02,
        "form": "reference",
    }
    return facts | {"n_processes": 1, "jax": "0.10.2", "commit": "abc", "source": "0123456789abcdef"} | place


def put(
    root: pathlib.Path, job: Job, measure: str, rows: list[Row], place: Row, repeat: int = 0, group: str = ""
) -> None:
    """Writes rows as launch.job does."""
    run = store.open_run(root, job)
    shared = conditions(job, measure, place, repeat, group)
    kind = store.kind(measure, place["place"] if shared["placed"] else "", repeat, group)
    for row in rows:
        store.append(run, kind, {"outcome": "ok", **row, **shared})


def put_time(root: pathlib.Path, job: Job, seconds: float, place: Row, repeat: int = 0, group: str = "") -> None:
    bytes_moved = {"argument_bytes": 10**6, "output_bytes": 10**6, "alias_bytes": 10**6, "temp_bytes": 10**7}
    tokens = 5 * job.batch * job.length
    shared = {"calls": 5, "tokens": tokens, "burst_seconds": 5 * seconds}
    blocks = [{"phase": "block", "turn": turn, "fenced_seconds": seconds, **shared} for turn in range(3)]
    compiled = {"phase": "compile", "compile_seconds": 2.5, "cached": repeat > 0, **bytes_moved}
    rows = [compiled, *blocks, {"phase": "fed", "fed_seconds": 6 * seconds, **shared}]
    put(root, job, "step_time:blocks=3", rows, place, repeat, group)


def put_pair(
    root: pathlib.Path, ratio: float, *, place: Row = GPU, processes: int = 3, control: float = 2.0, noise: float = 0.01
) -> list[Row]:
    """Timings in which attention is `ratio` times as fast as the LSTM; returns all rows."""
    for repeat in range(processes):
        drift = math.exp(noise * (repeat - 1))
        for group in ("length 1024", parallelism.BEST):
            put_time(root, JOB, 0.1, place, repeat, group)
            put_time(root, LSTM, 0.1 * ratio * drift, place, repeat, group)
        for mixer, seconds in ((parallelism.PARALLEL, 0.1), (parallelism.SEQUENTIAL, 0.1 * control * drift)):
            put_time(root, JOB.replace(mixer=mixer), seconds, place, repeat, parallelism.CONTROL)
    return store.load(root)


def put_size(root: pathlib.Path, job: Job, flops: float, depth: int, place: Row) -> None:
    depths = {"sequential_depth": depth, "sequential_depth_ran": depth}
    model = {
        "phase": "model",
        "flops_per_token": flops,
        "elementwise_per_token": 1.0,
        "flops_per_token_square": 2 * flops,
    }
    states = [{"phase": "state", "context": context, "state_bytes": 4 * context} for context in (1024, 16384)]
    put(root, job, "size", [model | depths, *states], place)


def put_learning(root: pathlib.Path, job: Job, loss: float, place: Row) -> None:
    rows: list[Row] = []
    for number in (1, 2, 3):
        at = {"step": 10 * number, "tokens": 40960 * number, "seconds": 1.5 * number}
        rows.append({"phase": "train", "loss": loss + 1 / number, "gradient_norm": 1.0, **at})
        held = {"examples": 64, "fingerprint": 7 * number, "loss": loss + 1 / number, "accuracy": 0.5}
        rows.append({"phase": "validation", **at, **held})
    rows.append({**rows[-1], "phase": "test", "examples": 256})
    put(root, job, "learning", rows, place)


def put_all(root: pathlib.Path, place: Row, job: Job = LSTM) -> None:
    """A small comparison: sizes, a peak, timings at two lengths, learning curves."""
    for at in (512, 1024):
        for arm, depth in ((JOB, 140), (job, 16 * at)):
            put_size(root, arm.replace(length=at), 3e5, depth, place)
            for repeat in (0, 1, 2):
                put_time(root, arm.replace(length=at), 0.1 + 0.001 * repeat, place, repeat, f"length {at}")
    peak = {
        "phase": "peak",
        "dtype": "float32",
        "flops_per_second": 2e11,
        "bytes_per_second": 5e9,
        "step_seconds": 1e-8,
    }
    put(root, JOB, "peak", [peak], place)
    for arm, loss in ((JOB, 2.0), (job, 1.8)):
        put_learning(root, arm.replace(length=256, batch=16), loss, place)


def describe(root: pathlib.Path, scale: str, evidence: bool, arms: list[str], place: Row) -> None:
    facts = {"scale": scale, "about": "", "evidence": evidence, "arms": arms, "claims": ["parallelism"]}
    facts |= {"command": [f"--scale={scale}", "--out=somewhere"], "place": place}
    (root / "compare.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a whole report."""
    root = tmp_path_factory.mktemp("drawn")
    put_all(root, CPU)
    describe(root, "quick", True, ["attention", "lstm"], CPU)
    assert report.write(root) == root / "report.html"
    return root


def judge(rows: list[Row]) -> Finding:
    return parallelism.judge(rows)


# The claim `parallelism`, on made-up timings.


def test_a_ratio_beyond_the_threshold_holds(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0))
    assert finding.verdict == "holds"
    assert finding.numbers[0].value == pytest.approx(20.0, rel=0.01)
    assert finding.numbers[0].low == pytest.approx(20.0, rel=0.05)
    assert finding.numbers[0].high == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize(("ratio", "said"), [(2.0, "attention is the faster one"), (0.5, "reversed")])
def test_a_ratio_below_the_threshold_fails_and_its_direction_is_said(tmp_path: pathlib.Path, ratio: float, said: str):
    finding = judge(put_pair(tmp_path, ratio))
    assert finding.verdict == "fails"
    assert said in finding.reason


def test_an_interval_across_the_threshold_is_undecided(tmp_path: pathlib.Path):
    assert judge(put_pair(tmp_path, 10.0, noise=0.2)).verdict == "undecided"


def test_a_broken_control_leaves_it_undecided(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0, control=0.9))
    assert finding.verdict == "undecided"
    assert not finding.controls[0].met


def test_a_cpu_is_not_what_the_textbook_speaks_of(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0, place=CPU))
    assert (finding.verdict, finding.numbers[0].n) == ("untested", 3)
    assert "CPU" in finding.reason


def test_trainings_on_a_cpu_do_not_untest_timings_on_a_gpu(tmp_path: pathlib.Path):
    put_learning(tmp_path, JOB, 2.0, CPU)
    assert judge(put_pair(tmp_path, 20.0)).verdict == "holds"


def test_one_process_gives_no_interval(tmp_path: pathlib.Path):
    finding = judge(put_pair(tmp_path, 20.0, processes=1))
    assert finding.verdict == "untested"
    assert finding.numbers[0].low is None


def test_a_scale_that_is_no_evidence_is_untested_whatever_it_measured(tmp_path: pathlib.Path):
    put_pair(tmp_path, 20.0)
    describe(tmp_path, "smoke", False, ["attention", "lstm"], GPU)
    finding = records.gather(tmp_path).judged[0].finding
    assert finding.verdict == "untested"
    assert "not evidence" in finding.reason


# Derived numbers.


def only_timing(root: pathlib.Path, flops: float, place: Row) -> tuple[derive.Machine, derive.Timing]:
    put_time(root, JOB, 0.1, place)
    put_size(root, JOB, flops, 140, place)
    rows = store.load(root)
    [timing] = derive.timings(rows)
    return derive.Machine(rows), timing


def test_mfu_is_three_forward_passes_over_the_peak_of_all_devices(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e9, {**GPU, "n_devices": 2})
    assert machine.mfu(timing) == pytest.approx(3 * 1e9 * 4096 / 0.1 / (2 * 494.7e12))


def test_an_mfu_above_one_raises_and_is_not_published(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e12, GPU)
    with pytest.raises(ValueError, match=r"MFU of 248\.\d\d is above 1"):
        machine.mfu(timing)
    [line] = [line for line in results.table(store.load(tmp_path)) if line["metric"] == "mfu"]
    assert line["value"] == ""
    assert "above 1" in line["outcome"]


def test_an_unknown_device_raises_and_names_the_line_to_add(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e9, {**GPU, "device_kind": "Foo 9000"})
    with pytest.raises(LookupError, match=r"Foo 9000.*suite/hardware\.py"):
        machine.mfu(timing)
    assert machine.bytes_per_second(timing) == pytest.approx(2e6 / 0.1)


def test_a_cpu_without_its_measured_peak_says_so(tmp_path: pathlib.Path):
    machine, timing = only_timing(tmp_path, 1e9, CPU)
    with pytest.raises(LookupError, match="run the measure `peak`"):
        machine.mfu(timing)


def test_the_floor_is_the_longest_of_work_bytes_and_chain(tmp_path: pathlib.Path):
    put_all(tmp_path, CPU)
    rows = store.load(tmp_path)
    machine = derive.Machine(rows)
    timings = {(timing.row["arm"], timing.row["length"]): timing for timing in derive.timings(rows)}
    work = 3 * 3e5 * 4096 / 2e11
    assert machine.floor_seconds(timings["attention", 1024]) == pytest.approx(work)
    assert machine.sequential_steps(timings["attention", 1024].row) == 0
    assert machine.sequential_steps(timings["lstm", 1024].row) == 2 * 1024
    [peak] = [row for row in rows if row.get("phase") == "peak"]
    peak["step_seconds"] = 1e-5
    assert machine.floor_seconds(timings["lstm", 1024]) == pytest.approx(2 * 2 * 1024 * 1e-5)
    peak["bytes_per_second"] = 1e6
    assert machine.floor_seconds(timings["attention", 1024]) == pytest.approx(2.0)


def test_a_batch_that_was_only_looked_at_counts_where_there_is_nothing_better(tmp_path: pathlib.Path):
    put_time(tmp_path, JOB, 9.0, GPU, group=parallelism.LADDER)
    assert derive.timings(store.load(tmp_path))[0].seconds == pytest.approx(9.0)
    put_time(tmp_path, JOB, 0.1, GPU, group="length 1024")
    assert derive.timings(store.load(tmp_path))[0].seconds == pytest.approx(0.1)


# results.csv


def table(root: pathlib.Path) -> list[dict[str, str]]:
    with open(root / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_is_tidy(drawn: pathlib.Path):
    lines = table(drawn)
    assert list(lines[0]) == COLUMNS.split()
    wanted = {
        "step_seconds",
        "tokens_per_second",
        "compile_seconds",
        "peak_temp_bytes",
        "mfu",
        "state_bytes",
        "sequential_depth",
    }
    wanted |= {
        "validation_loss_nats",
        "validation_bits_per_byte",
        "test_bits_per_byte",
        "test_accuracy",
        "fraction_of_attainable",
    }
    assert wanted <= {line["metric"] for line in lines}
    assert all(line["value"] == "" or math.isfinite(float(line["value"])) for line in lines)
    [bits] = [float(line["value"]) for line in lines if (line["metric"], line["arm"]) == ("test_bits_per_byte", "lstm")]
    assert bits == pytest.approx((1.8 + 1 / 3) / math.log(2))
    [step] = [
        line
        for line in lines
        if (line["metric"], line["arm"], line["train_length"]) == ("step_seconds", "lstm", "1024")
    ]
    assert (float(step["value"]), step["n"]) == (pytest.approx(0.101), "3")


def test_what_does_not_fit_stands_in_the_table_without_a_number(tmp_path: pathlib.Path):
    put(
        tmp_path,
        JOB,
        "step_time:blocks=3",
        [{"outcome": "oom", "error": "RESOURCE_EXHAUSTED"}],
        GPU,
        group="length 1024",
    )
    put(
        tmp_path,
        LSTM,
        "learning",
        [{"outcome": "diverged", "phase": "train", "step": 3, "tokens": 9, "seconds": 1.0}],
        GPU,
    )
    run = store.open_run(tmp_path, JOB.replace(length=512))
    place = {key: GPU[key] for key in ("place", "platform", "device_kind", "n_devices")}
    given_up = {
        "measure": "step_time:blocks=3",
        "repeat": 0,
        "group": "length 512",
        "run_id": run.name,
        "arm": "attention",
    }
    store.append(run, "step_time", {"outcome": "crashed", "error": "exit code -9", "placed": True, **given_up, **place})
    report.write(tmp_path)
    lines = {line["outcome"]: line for line in table(tmp_path)}
    assert {"oom", "diverged", "crashed"} <= set(lines)
    assert {lines[outcome]["value"] for outcome in ("oom", "diverged", "crashed")} == {""}
    page = (tmp_path / "report.html").read_text()
    assert "out of memory" in page
    assert "diverged at step 3" in page


# The files, at any moment.


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_findings_are_strict_json(drawn: pathlib.Path):
    found = strict((drawn / "report.json").read_text())
    [claim] = found["claims"]
    assert (claim["name"], claim["verdict"]) == ("parallelism", "untested")
    assert re.fullmatch("[0-9a-f]{12}", claim["rule_hash"])
    assert found["headline"] == report.headline(drawn)


def test_the_headline_has_this_machines_numbers(drawn: pathlib.Path):
    said = report.headline(drawn)
    assert "Some CPU" in said
    assert "float32" in said
    assert "the LSTM stood at 3.08 and attention at 3.37 bits per byte" in said
    assert "one claim is untested here" in said


class Page(html.parser.HTMLParser):
    """Start tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_the_page_asks_no_network(drawn: pathlib.Path):
    text = (drawn / "report.html").read_text()
    page = Page(text)
    loaded = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert loaded == ["data:,"]
    assert "default-src 'none'" in text
    [specs] = re.findall(r'id="specs">(.*?)</script>', text, re.DOTALL)
    assert "://" not in specs
    assert text.count("window.vegaEmbed=") == 1  # one bundle for all figures


def test_every_number_has_its_command(drawn: pathlib.Path):
    for name in ("report.html", "report.md"):
        text = (drawn / name).read_text()
        assert "python -m launch.compare --scale=quick --out=somewhere" in text
        assert "python -m launch.job --mixer=lstm --width=64 --match_to=attention" in text


def test_markdown_shows_the_pictures(drawn: pathlib.Path):
    pictures = re.findall(r"\]\((figures/.*?\.png)\)", (drawn / "report.md").read_text())
    assert len(pictures) == 4
    assert all((drawn / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_equal_fingerprints_and_the_rate_are_said(drawn: pathlib.Path):
    text = (drawn / "report.md").read_text()
    assert "The fingerprints are equal" in text
    assert "One rate for all arms, not tuned" in text


def test_a_comparison_that_has_just_begun_has_a_report(tmp_path: pathlib.Path):
    describe(tmp_path, "quick", True, ["attention", "lstm"], {})
    report.write(tmp_path)
    assert report.headline(tmp_path) == "Nothing has been measured yet."
    put_learning(tmp_path, JOB, 2.0, CPU)
    report.write(tmp_path)
    assert "Some CPU" in report.headline(tmp_path)


def test_a_single_job_has_a_report_of_the_newest_place(tmp_path: pathlib.Path):
    put_time(tmp_path, JOB, 0.1, {**GPU, "device_kind": "Foo 9000"})
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "no peak FLOP/s for &#x27;Foo 9000&#x27;; add a line" in page
    assert "1 x Foo 9000" in report.headline(tmp_path)


def test_rows_of_another_place_are_left_out(tmp_path: pathlib.Path):
    put_pair(tmp_path, 20.0, place=GPU)
    put_pair(tmp_path, 0.5, place=CPU)
    describe(tmp_path, "quick", True, ["attention", "lstm"], CPU)
    found = records.gather(tmp_path)
    assert {row["place"] for row in found.rows} == {CPU["place"]}
    assert found.judged[0].finding.numbers[0].value == pytest.approx(0.5, rel=0.01)


def test_an_arm_of_the_users_own_is_escaped(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "<b>.py").write_text("class Mixer:\n    def __init__(self, width, *, key): ...\n")
    monkeypatch.chdir(tmp_path)
    put_all(tmp_path, CPU, JOB.replace(mixer="./<b>.py", match_to="attention"))
    describe(tmp_path, "smoke", False, ["attention", "./<b>.py"], CPU)
    report.write(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert not [tag for tag, _ in page.tags if tag == "b.py" or (tag == "b" and "class" not in dict(_))]
    assert "./<b>.py" in page.text
    assert r"./\<b\>.py" in (tmp_path / "report.md").read_text()


def test_smoke_says_that_it_is_not_evidence(tmp_path: pathlib.Path):
    describe(tmp_path, "smoke", False, ["attention", "lstm"], CPU)
    put_time(tmp_path, JOB, 0.1, CPU)
    report.write(tmp_path)
    for name in ("report.html", "report.md"):
        assert "Scale smoke is a test of the installation and not evidence" in (tmp_path / name).read_text()
    assert "not evidence" in report.headline(tmp_path)


def test_an_arm_keeps_its_colour_whatever_else_is_drawn():
    few, many = charts.styles(["lstm"]), charts.styles(["./mine.py", "gru", "attention", "attention:heads=8", "lstm"])
    assert few["lstm"] == many["lstm"]
    assert len({colour for colour, _ in many.values()}) == 5


def test_labels_at_the_ends_of_lines_do_not_overlap():
    points = tuple(Point(arm, x, 1.0 + 0.001 * place) for place, arm in enumerate("abcd") for x in (128.0, 1024.0))
    spec = charts.draw(Figure("f", "t", "x", "y", points, {"textbook": 10.0}), "abcd")
    [labels] = [spec["datasets"][layer["data"]["name"]] for layer in spec["layer"] if "limit" in layer["mark"]]
    [low, high] = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    pixels = [charts.HEIGHT * math.log(label["y"] / low) / math.log(high / low) for label in labels]
    assert all(after - before >= charts.LABEL_GAP - 0.01 for before, after in itertools.pairwise(pixels))


def test_a_browser_draws_every_figure_without_complaint(drawn: pathlib.Path, tmp_path: pathlib.Path):
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"the page was not opened: none of {', '.join(names)} is installed")
    quiet = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
    quiet += ("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}")
    command = [browser, "--headless", *quiet, "--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", (drawn / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert done.stdout.count('class="marks"') == 4


# launch.report


def launch(*argv: str) -> subprocess.CompletedProcess[str]:
    root = pathlib.Path(__file__).parent.parent
    command = [sys.executable, "-m", "launch.report", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def test_a_directory_without_records_is_refused_in_one_line(tmp_path: pathlib.Path):
    for folder in (tmp_path, tmp_path / "nothing"):
        done = launch(f"--out={folder}")
        assert done.returncode == 70
        assert done.stderr.count("\n") == 1
        assert "no records in" in done.stderr


def test_help_comes_without_jax_or_altair():
    program = "import sys, launch.report; print({'jax', 'altair', 'scipy', 'vl_convert'} & set(sys.modules))"
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set()"
    assert "directory of the records" in launch("--help").stdout
