"""How a training step's time, FLOP and memory grow with batch, resolution, classes and domains.

    python benchmarks/growth.py --out growth.json [--plot growth.svg] [--only unit-batch ...]

Each point is measured in a process of its own, so that no peak hides another: the median time of ``--rounds`` rounds of the
players after one to warm up, FLOP by PyTorch's counter, and MiB beyond what the process held before the step. Reduced networks,
random images. "× work" is the growth of time (or memory) divided by the growth of FLOP, from the first point of a line to
its last: up to about 1, nothing grows faster than the work. The plot is an SVG written here: no plotting library is needed.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import harness
import torch

UNIT = {"model.width": 8, "model.discriminator_width": 8}
BIGGAN = {"model.width": 8, "model.batch_size": 4}
LINES: dict[str, tuple[str, str, list[int], str]] = {
    "unit-batch": ("unit-horse2zebra-128", "model.batch_size", [1, 2, 4, 8], "images of each domain in a batch"),
    "unit-resolution": ("unit-horse2zebra-128", "data.size", [64, 128, 192, 256], "pixels a side"),
    "deepi2i-batch": ("deepi2i-small", "model.batch_size", [2, 4, 8, 16], "images in a batch"),
    "deepi2i-classes": ("deepi2i-small", "classes", [2, 16, 128, 1024], "classes (domains)"),
    "biggan-classes": ("biggan-small", "classes", [1, 10, 100, 1000], "classes (domains)"),
}
"""Preset, what varies, its values, and what it is called."""


def point(preset: str, what: str, value: int, rounds: int) -> dict[str, float]:
    """One point: runs in a process of its own."""
    from flops import flop_counter

    from unpaired.data.sampling import ArrayPool, Sampler
    from unpaired.training import loop
    from unpaired.training import run as training_run

    settings: dict[str, Any] = dict(UNIT if preset.startswith("unit") else BIGGAN)
    settings |= {"training.precision": "fp32", "training.device": "cpu"}
    if what == "data.size":
        settings |= {"data.size": value, "data.resize": value}
    elif what != "classes":
        settings |= {what: value}
    config = training_run.resolve(preset=preset, settings=settings)
    names = tuple(f"class {i:04}" for i in range(value if what == "classes" else 2))
    shown = harness.noise_pool(config, names[:1], count=2).images[names[0]]
    pool = ArrayPool(dict.fromkeys(names, shown))  # the same two images: those of a data set would lie on disk
    method = training_run.build(config, names)
    trainer = loop.Trainer(method, pool, config, Path("unused"), device=torch.device("cpu"))
    stage = trainer.state.plan.stages[-1]
    trainer.modes(stage)
    batch = Sampler(pool, config.data, method.pairs, 0, domains=method.domains, reads=method.reads).batch(
        1, stage.batch_size
    )
    period = math.lcm(*(update.every for update in stage.updates))

    def one_round() -> None:
        for _ in range(period):
            trainer.state.step += 1
            trainer.run_step(stage, 0, harness.fresh(batch))

    held = harness.resident_mib("VmRSS")
    one_round()
    mib = harness.resident_mib("VmHWM") - held
    with flop_counter() as counter:
        one_round()
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = []
    for _ in range(rounds):
        start = now()
        one_round()
        seconds.append(now() - start)
    return {
        "value": value, "ms": 1e3 * statistics.median(seconds), "gflop": counter.get_total_flops() / 1e9, "mib": mib,
        "parameters": sum(p.numel() for p in method.parameters()) / 1e6,
    }  # fmt: skip


def beyond_work(points: list[dict[str, float]], what: str) -> float:
    """Growth of ``what`` divided by the growth of FLOP, first point to last."""
    first, last = points[0], points[-1]
    return (last[what] / first[what]) / (last["gflop"] / first["gflop"])


COLOURS = {"ms": "#1f6fb4", "gflop": "#888888", "mib": "#c8641e"}


def svg(lines: dict[str, list[dict[str, float]]]) -> str:
    """One panel a line: growth of time, FLOP and memory against the first point, both axes logarithmic."""
    width, height, edge = 260, 210, 36
    parts = []
    for column, (name, points) in enumerate(lines.items()):
        left = column * width
        grown = {k: [p[k] / points[0][k] for p in points] for k in COLOURS}
        top = math.log(max(2.0, *itertools.chain(*grown.values())))
        right = math.log(points[-1]["value"] / points[0]["value"])
        parts.append(f'<text x="{left + edge}" y="16" font-size="12">{name}: {LINES[name][3]}</text>')
        parts.append(
            f'<rect x="{left + edge}" y="24" width="{width - edge - 14}" height="{height - 50}" fill="none" stroke="#ccc"/>'
        )

        def place(p: dict[str, float], growth: float, left: int = left, right: float = right, top: float = top, first: float = points[0]["value"]) -> tuple[float, float]:  # fmt: skip
            x = left + edge + (width - edge - 14) * math.log(p["value"] / first) / right
            y = height - 26 - (height - 50) * max(0.0, math.log(growth)) / top
            return x, y

        for kind, colour in COLOURS.items():
            spots = [place(p, g) for p, g in zip(points, grown[kind], strict=True)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        for p in points:
            x, _ = place(p, 1.0)
            parts.append(
                f'<text x="{x:.1f}" y="{height - 12}" font-size="10" text-anchor="middle">{p["value"]:g}</text>'
            )
        parts.append(f'<text x="{left + 4}" y="32" font-size="10">× {math.exp(top):.1f}</text>')
    names = {"ms": "time", "gflop": "FLOP", "mib": "memory"}
    for i, (kind, colour) in enumerate(COLOURS.items()):
        parts.append(f'<text x="{40 + 90 * i}" y="{height + 12}" font-size="12" fill="{colour}">{names[kind]}</text>')
    size = f'width="{width * len(lines)}" height="{height + 20}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'


def main() -> None:
    """Measure every line, print its table, write JSON and plot."""
    p = harness.arguments(__doc__, rounds=3)
    p.add_argument("--plot", type=Path, help="SVG file")
    p.add_argument("--only", nargs="*", default=list(LINES), choices=list(LINES))
    args = p.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for name in args.only:
        preset, what, values, label = LINES[name]
        found[name] = []
        for value in values:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[name].append(pool.submit(point, preset, what, value, args.rounds).result())
        print(f"\n{preset}, {label}\n\n| {what} | ms | GFLOP | MiB | million parameters |\n|---|---|---|---|---|")
        for row in found[name]:
            print(
                f"| {row['value']} | {row['ms']:.0f} | {row['gflop']:.2f} | {row['mib']:.0f} | {row['parameters']:.2f} |"
            )
        print(
            f"\ntime × {beyond_work(found[name], 'ms'):.2f} and memory × {beyond_work(found[name], 'mib'):.2f} of the work's growth",
            flush=True,
        )
    if args.out is not None:
        about = {"machine": harness.machine(), "command": " ".join(sys.argv), "n": args.rounds, "seed": 0}
        args.out.write_text(json.dumps({**about, "lines": found}, indent=1))
    if args.plot is not None:
        args.plot.write_text(svg(found), encoding="utf-8")


if __name__ == "__main__":
    main()
