"""Energy: counters that are read from files, what becomes of them when they begin again or are not there, and rows."""

import pathlib
import sys
import time
from collections.abc import Iterator

import pytest
from counters import RANGE, moving, zone
from programs import run_here
from test_measures import JOB

from suite import energy, report
from suite.energy import Absent
from suite.measures.energy import block
from suite.report import results
from suite.sweep import exit_codes, store

# Of a host with two GPUs, whose counters stand in files: there is no board here to ask.
NVML = """
import pathlib


class NVMLError(Exception):
    pass


def nvmlInit():
    if not pathlib.Path("gpu-0").exists():
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetCount():
    return 2


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetTotalEnergyConsumption(handle):
    return int(pathlib.Path(f"gpu-{handle}").read_text())
"""


def test_packages_and_their_memory_count_and_what_is_inside_or_around_them_does_not(tmp_path: pathlib.Path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    cores = zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 2_000_000)
    platform = zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    again = zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    meter = energy.rapl(tmp_path)
    assert (meter.name, meter.covers) == ("RAPL", "package-0+0-dram")
    before = meter.read()
    for counter, more in ((package, 3_000_000), (memory, 500_000), (cores, 7), (platform, 7), (again, 7)):
        counter.write_text(f"{int(counter.read_text()) + more}\n")
    assert meter.joules(before, meter.read()) == pytest.approx(3.5)


def test_a_counter_that_has_begun_again_is_carried_on(tmp_path: pathlib.Path):
    package = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    zone(tmp_path, "intel-rapl:2", "package-1", 10)
    meter = energy.rapl(tmp_path)
    before = meter.read()
    package.write_text("1000000\n")
    assert meter.joules(before, meter.read()) == pytest.approx(3.0)


def test_a_counter_that_does_not_move_is_no_zero(tmp_path: pathlib.Path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5)
    meter = energy.rapl(tmp_path)
    with pytest.raises(Absent, match="RAPL did not move"):
        meter.joules(meter.read(), meter.read())


def test_counters_that_are_not_there_or_unreadable_are_absent_with_the_reason(tmp_path: pathlib.Path):
    with pytest.raises(Absent, match="no package of RAPL in "):
        energy.rapl(tmp_path / "none")
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    package.write_text("n/a")
    with pytest.raises(Absent, match=r"energy_uj holds 'n/a', no number"):
        energy.rapl(tmp_path)
    package.unlink()
    package.mkdir()  # which root cannot read either
    with pytest.raises(Absent, match=r"cannot read .*/energy_uj: Is a directory"):
        energy.rapl(tmp_path)
    with pytest.raises(Absent, match="libtpu's monitoring has none for a TPU"):
        energy.meter("tpu", 4, tmp_path)


def test_all_boards_of_a_host_count_or_none(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Absent, match=r"nvidia-ml-py is not installed"):
        energy.meter("gpu", 2, tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pynvml.py").write_text(NVML)
    with pytest.raises(Absent, match="NVML: Driver Not Loaded"):
        energy.meter("gpu", 2, tmp_path)
    for board in (0, 1):
        (tmp_path / f"gpu-{board}").write_text("1000")
    with pytest.raises(Absent, match="NVML counts 2 GPUs and the job runs on 1"):
        energy.meter("gpu", 1, tmp_path)
    meter = energy.meter("gpu", 2, tmp_path)
    before = meter.read()
    (tmp_path / "gpu-1").write_text("3500")
    assert (meter.covers, meter.joules(before, meter.read())) == ("gpu-0+gpu-1", 2.5)
    sys.modules.pop("pynvml")


@pytest.fixture
def powercap(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose package counts."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    with moving(tmp_path / "powercap"):
        yield


@pytest.mark.usefixtures("powercap")
def test_joules_a_token_of_training_and_decoding_stand_in_the_table_and_the_report(tmp_path: pathlib.Path):
    spec = "energy:batch=2,blocks=2,context=8,milliseconds=200"
    assert run_here(tmp_path / "out", JOB, spec) == exit_codes.DONE
    rows = store.load(tmp_path / "out")
    assert [row["phase"] for row in rows] == ["training_energy"] * 2 + ["decoding_energy"] * 2
    for row in rows:
        assert row["tokens"] % (8 * 12 if row["phase"] == "training_energy" else 2 * 8) == 0
        assert 1 < row["joules"] / row["seconds"] < 100, "it moves by at most 50 watts"
    lines = {line["metric"]: line["value"] for line in results.table(rows)}
    assert lines["training_joules_per_token"] == rows[1]["joules"] / rows[1]["tokens"]
    assert lines["decoding_joules_per_token"] == rows[3]["joules"] / rows[3]["tokens"]
    report.write(tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "prefill, is not in it" in text
    assert text.count("RAPL: package-0") == 2


@pytest.mark.usefixtures("powercap")
def test_a_block_lasts_as_long_as_was_asked_though_calls_were_slower_when_they_were_first_timed():
    def timed(calls: int) -> float:
        time.sleep(0.02 * calls)
        return 0.02 * calls

    calls, joules, seconds = block(energy.meter("cpu", 1, energy.POWERCAP), timed, calls=1, least=0.2)
    assert calls == 12, "a fifth more than 10"
    assert seconds >= 0.2
    assert 0 < joules / seconds < 100


def test_an_absent_counter_is_said_and_no_number(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    assert run_here(tmp_path / "out", JOB, "energy:blocks=1,context=8,milliseconds=200") == exit_codes.DONE
    rows = store.load(tmp_path / "out")
    assert [(row["phase"], row["counter"]) for row in rows] == [
        ("training_energy", "none"),
        ("decoding_energy", "none"),
    ]
    assert not [column for row in rows for column in row if column == "joules"]
    assert results.table(rows) == []
    report.write(tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "no package of RAPL in " in text
    assert text.count("absent \\[1\\]") == 2
