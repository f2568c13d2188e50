"""Draw ``docs/ring-speed.png`` and ``docs/ring-balance.png`` from the JSON of ``benchmarks/ring.py``.

python benchmarks/_plot_ring.py [out/bench/ring.json [docs]]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Row = dict[str, Any]

OURS = "partition_actor"
# Okabe and Ito's colours, which colour-blind readers can tell apart. A peer has the same colour in every run.
COLOURS = {
    OURS: "#D55E00",
    "uhashring xxh3": "#0072B2",
    "uhashring md5": "#56B4E9",
    "tooz HashRing": "#009E73",
    "tooz Partitioner": "#CC79A7",
    "Ray Serve": "#E69F00",
}


def draw_speed(document: dict[str, Any], path: Path) -> None:
    """Keys checked per second against the number of keys. The dashed line is the index after a change."""
    sizes = sorted({row["members"] for row in document["first_subset"]})
    figure, panels = plt.subplots(1, len(sizes), figsize=(4.4 * len(sizes), 4.4), sharey=True, squeeze=False)
    for panel, members in zip(panels[0], sizes, strict=True):
        _speed_panel(panel, document, members)
    panels[0][0].set_ylabel("keys per second")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.suptitle(f"A member's keys out of all, {document['machine']['processor']}")
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _speed_panel(panel: Axes, document: dict[str, Any], members: int) -> None:
    joined = [row for row in document["after_a_join"] if row["members"] == members]
    panel.plot(*_line(joined, "change_and_subset"), "o--", color=COLOURS[OURS], label="partition_actor, after a change")
    rows = [row for row in document["first_subset"] if row["members"] == members]
    for who in dict.fromkeys(row["who"] for row in document["first_subset"]):
        label = "partition_actor, first time" if who == OURS else who
        panel.plot(*_line([r for r in rows if r["who"] == who], "seconds"), "o-", color=COLOURS[who], label=label)
    panel.set(title=f"{members:,} members", xlabel="keys", xscale="log", yscale="log")
    panel.grid(alpha=0.3)


def _line(rows: list[Row], field: str) -> tuple[list[int], list[float]]:
    rows = sorted(rows, key=lambda row: row["keys"])
    return [row["keys"] for row in rows], [row["keys"] / row[field] for row in rows]


def draw_balance(document: dict[str, Any], path: Path) -> None:
    """The most and least loaded member over the mean, against virtual nodes per member."""
    rows = sorted(document["balance"], key=lambda row: row["vnodes"])
    vnodes = [row["vnodes"] for row in rows]
    figure, panel = plt.subplots(figsize=(7, 4.4))
    for field, label, style in (
        ("keys_max_over_mean", "keys, most loaded member", "o-"),
        ("share_max_over_mean", "hash space, most loaded member", "s--"),
        ("share_min_over_mean", "hash space, least loaded member", "s:"),
    ):
        panel.plot(vnodes, [row[field] for row in rows], style, label=label)
    panel.axhline(1, color="grey", linewidth=1)
    panel.set(
        title=f"Balance among {rows[0]['members']} members of weight 1",
        xlabel="virtual nodes per member",
        ylabel="over the mean",
        xscale="log",
    )
    panel.set_xticks(vnodes, [str(count) for count in vnodes], minor=False)
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    given = [Path(argument) for argument in sys.argv[1:]]
    source, out = (*given, *[Path("out/bench/ring.json"), Path("docs")][len(given) :])[:2]
    document = json.loads(source.read_text())
    draw_speed(document, out / "ring-speed.png")
    draw_balance(document, out / "ring-balance.png")


if __name__ == "__main__":
    main()
