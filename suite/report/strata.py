"""Where the gain is: the difference between two arms' losses on the same targets, by kind of token. Not judged."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from suite.judging.gains import Gains
from suite.judging.statistics import Interval
from suite.report import figures, words
from suite.report.page import Block, Chart, Commands, Heading, Note, Prose, Spec, Table
from suite.report.records import Comparison
from suite.report.tested import Tested, tested
from suite.sweep.record import Row

LINE, ARM = 18, 8  # pixels of a stratum in the figure, and of each further arm in it
ABOUT = (
    "The losses of two arms on the same bytes of the same files, by kind of byte. Each partition puts every byte into "
    "one stratum: by syntax; by repetition, where a byte is continued if it and the seven before it stood together in "
    "the window before, broken if these seven did and it never followed them, and else new; by the names of the code, "
    "used for the first time in the window or so many bytes after their last use. suite/tasks/corpora/strata.py has "
    "the rule of each. Shares are of the whole difference; in a partition they add up to 1."
)
FEW = 20  # clusters below which percentiles of a bootstrap are too narrow (Cameron, Gelbach and Miller 2008)

Stratum = tuple[str, str]  # of a partition, by their names


@dataclasses.dataclass(frozen=True)
class Pair:
    """The loss of an arm less that of the reference, on the seeds that both have; by partition."""

    reference: str
    arm: str
    gains: dict[str, Gains]
    strata: dict[str, list[str]]

    @property
    def whole(self) -> Interval:
        return next(iter(self.gains.values())).whole

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the whole difference leaves out 0; only then has it shares."""
        return not self.whole.low <= 0 <= self.whole.high

    def difference(self, stratum: Stratum) -> Interval:
        return self.gains[stratum[0]].of_stratum(self._index(stratum))

    def share(self, stratum: Stratum) -> Interval:
        """Of the whole difference, which must be clear."""
        return self.gains[stratum[0]].share(self._index(stratum))

    def share_of_bytes(self, stratum: Stratum) -> float:
        return self.gains[stratum[0]].share_of_targets(self._index(stratum))

    @property
    def sentence(self) -> str:
        """The whole difference, and the stratum that carries the most beyond its share of the bytes."""
        reference, arm, whole = words.arm(self.reference), words.arm(self.arm), self.whole
        if not self.is_clear:
            return f"{reference} and {arm} read the test alike: {arm} takes {_text(whole)} nats a byte more"
        shares = {stratum: self.share(stratum) for stratum in every(self.strata)}
        better, worse = (reference, arm) if whole.value > 0 else (arm, reference)
        gained = whole if whole.value > 0 else Interval(-whole.value, -whole.high, -whole.low)
        most = max(shares, key=lambda stratum: shares[stratum].value - self.share_of_bytes(stratum))
        partition, name = most
        return (
            f"of the {_text(gained)} nats a byte by which {better} reads the test better than {worse}, "
            f'{_percent(shares[most])} is on the stratum "{words.spelt(name)}" of {partition}, which has '
            f"{words.percent(self.share_of_bytes(most))} of the bytes{self._level}"
        )

    @property
    def _level(self) -> str:
        """The strata on which neither is clearly better, with their shares of the bytes."""
        differences = {stratum: self.difference(stratum) for stratum in every(self.strata)}
        level = [stratum for stratum, (_, low, high) in differences.items() if low <= 0 <= high]
        each = [f"{_label(stratum)} ({words.percent(self.share_of_bytes(stratum))})" for stratum in level]
        return f", and intervals hold 0 on {words.listed(each)}" if each else ""

    def _index(self, stratum: Stratum) -> int:
        partition, name = stratum
        return self.strata[partition].index(name)


def strata(comparison: Comparison) -> Iterator[Block]:
    """The section: of each training conditions with two arms a sentence, a figure and a table."""
    measured = [(group, pairs) for group in tested(comparison, "strata") if (pairs := pairs_of(group))]
    if not measured:
        return
    yield Heading("Where the gain is (not judged)", name="strata")
    yield Prose(ABOUT)
    for number, (group, pairs) in enumerate(measured, 1):
        each = "; ".join(pair.sentence for pair in pairs)
        yield Prose(f"{group.conditions[:1].upper()}{group.conditions[1:]}: {each}.")
        yield _chart(comparison, pairs, f"strata_{number}")
        yield _table(group, pairs)
        yield Note(_intervals(pairs))
        yield Commands(tuple(comparison.commands(group.every_row)), "each arm by itself")


def pairs_of(group: Tested) -> list[Pair]:
    """Each other arm beside the first; seeds that only one of them has, or with other targets, are left out."""
    names: dict[str, list[str]] = {}
    for partition, name in dict.fromkeys((row["partition"], row["stratum"]) for row in group.every_row):
        names.setdefault(partition, []).append(name)
    files = sorted({row["turn"] for row in group.every_row})
    if len(files) < 2:
        return []
    sums = {
        arm: {seed: {at: _sums(rows, at, of, files) for at, of in names.items()} for seed, rows in seeds.items()}
        for arm, seeds in group.rows.items()
    }
    reference, *others = group.arms
    pairs = []
    for arm in others:
        both = [
            (sums[reference][seed], sums[arm][seed])
            for seed in sorted(sums[reference].keys() & sums[arm].keys())
            if all(np.array_equal(sums[reference][seed][at][1], sums[arm][seed][at][1]) for at in names)
        ]
        if both:
            gains = {
                at: Gains(
                    np.stack([theirs[at][0] - ours[at][0] for ours, theirs in both]),
                    np.stack([ours[at][1] for ours, _ in both]),
                )
                for at in names
            }
            pairs.append(Pair(reference, arm, gains, names))
    return pairs


def _intervals(pairs: list[Pair]) -> str:
    """What the intervals are drawn from."""
    gains = next(iter(pairs[0].gains.values()))
    seeds, files, _ = gains.nats_MFS.shape
    over = [words.counted(files, "file or group of files", "files or groups of files")]
    over += [words.counted(seeds, "seed")] if seeds > 1 else []
    few = [noun for noun, number in (("files", files), ("seeds", seeds)) if 1 < number < FEW]
    narrow = f" A bootstrap over so few {words.listed(few)} is too narrow." if few else ""
    return f"Nats a byte. Intervals of 95 %: a paired bootstrap over {words.listed(over)}.{narrow}"


def every(strata: dict[str, list[str]]) -> list[Stratum]:
    """The strata of all partitions."""
    return [(partition, name) for partition, names in strata.items() for name in names]


def _sums(rows: list[Row], partition: str, names: list[str], files: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Nats and targets, (files, strata) each."""
    nats_FS, targets_FS = np.zeros((2, len(files), len(names)))
    for row in rows:
        if row["partition"] == partition:
            at = files.index(row["turn"]), names.index(row["stratum"])
            nats_FS[at], targets_FS[at] = row["nats"], row["targets"]
    return nats_FS, targets_FS


def _table(group: Tested, pairs: list[Pair]) -> Table:
    """A line for each stratum: its share of the bytes, each arm's difference and its share of the whole."""
    [reference, *_] = group.arms
    columns = ["stratum", "of the bytes"]
    for pair in pairs:
        columns += [f"{pair.arm} less {reference}", "share of it"]
    lines = [["every byte", words.percent(1.0)]]
    for pair in pairs:
        lines[0] += [_text(pair.whole), words.percent(1.0) if pair.is_clear else "no clear difference"]
    for stratum in every(pairs[0].strata):
        line = [_label(stratum), words.percent(pairs[0].share_of_bytes(stratum))]
        for pair in pairs:
            line += [_text(pair.difference(stratum)), _percent(pair.share(stratum)) if pair.is_clear else ""]
        lines.append(line)
    return Table(tuple(columns), tuple(map(tuple, lines)))


def _chart(comparison: Comparison, pairs: list[Pair], name: str) -> Chart:
    """A dot with its interval for each stratum and arm; strata stand beneath one another."""
    rows, order = [], [_label(stratum) for stratum in every(pairs[0].strata)]
    for pair in pairs:
        for stratum in every(pair.strata):
            value, low, high = pair.difference(stratum)
            rows.append({"series": pair.arm, "stratum": _label(stratum), "x": value, "low": low, "high": high})
    styles = figures.styles(list(dict.fromkeys([*comparison.arms, *(pair.arm for pair in pairs)])))
    colours = {pair.arm: styles[pair.arm][0] for pair in pairs}
    reference = pairs[0].reference
    title = f"Loss above that of {words.arm(reference)} on the same bytes, by kind of byte"
    wholes = "; ".join(f"{pair.arm}: {_text(pair.whole)} over every byte" for pair in pairs)
    note = f"Right of 0 {words.arm(reference)} reads better. Bars: 95 % intervals."
    return Chart(name, title, draw(rows, order, colours), f"nats a byte by kind of byte. {wholes}.", note)


def draw(rows: list[Row], order: list[str], colours: dict[str, str]) -> Spec:
    """The Vega-Lite spec: values along x, strata along y, and within each the arms."""
    x = {"type": "quantitative", "title": "nats a byte", "axis": {"format": "~g", "tickCount": 6}}
    scale = {"domain": list(colours), "range": list(colours.values())}
    legend = {"orient": "top", "title": None, "symbolType": "circle", "symbolOpacity": 1}
    shared = {
        "y": {"field": "stratum", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 220}},
        "yOffset": {"field": "series", "type": "nominal", "sort": list(colours)},
        "color": {**figures.SERIES, "scale": scale, "legend": legend},
        "tooltip": [figures.SERIES | {"title": ""}, {"field": "x", "type": "quantitative", "format": ".3~g"}],
    }
    layers = [
        ({"type": "rule", "strokeDash": [3, 3]}, [{"x": 0}], {"x": {"field": "x", **x}}),
        ({"type": "rule", "strokeWidth": 1.5}, rows, {"x": {"field": "low", **x}, "x2": {"field": "high"}, **shared}),
        ({"type": "circle", "size": 52, "opacity": 1}, rows, {"x": {"field": "x", **x}, **shared}),
    ]
    return {
        "layer": [{"mark": mark, "data": {"values": data}, "encoding": channels} for mark, data, channels in layers],
        "padding": {"left": 4, "top": 8, "bottom": 4, "right": 12},
        "width": "container",
        "height": len(order) * (LINE + ARM * (len(colours) - 1)),
        "autosize": {"type": "fit-x", "contains": "padding"},
    }


def _label(stratum: Stratum) -> str:
    partition, name = stratum
    return f"{partition}: {words.spelt(name)}"


def _text(interval: Interval) -> str:
    value, low, high = map(words.number, interval)
    return f"{value} (95 % {low} to {high})"


def _percent(interval: Interval) -> str:
    value, low, high = (words.percent(round(bound, 3) + 0.0).removesuffix(" %") for bound in interval)
    return f"{value} % (95 % {low} to {high})"
