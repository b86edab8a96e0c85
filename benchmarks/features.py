"""Speed of the feature pass in fp32 and bf16, and how far bf16 moves each metric.

    python benchmarks/features.py DATA --weights WEIGHTS [--backbone mobilenet_v1,fid] [--limit 500] [--size 128] --out features.json

DATA is a data folder with two domains (its test split is taken, --split train for the other): the distances are those between the
real images of its first two domains. ``--random`` gives a backbone whose weights are not here random ones: right for the speed,
without meaning for the distances, which are then left out. Nothing is kept in a cache.

    python benchmarks/features.py --speed [--backbone vgg19,mobilenet_v1,fid] [--precision fp32] [--images 4] [--rounds 5]

is the row of the table of speed: the backbone against the same network run eagerly, contiguous, in fp32 under no_grad (in bf16 also
under plain autocast), random weights, each way in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from apart import interleave_apart
from harness import Row, compare, write

from unpaired.config import DataConfig
from unpaired.data.folders import find
from unpaired.data.images import to_tensor
from unpaired.data.sampling import open_pool
from unpaired.errors import WeightsError
from unpaired.evaluation.features import BACKBONES, BATCH, NetworkBackbone, backbone_from_state, open_backbone
from unpaired.evaluation.figures import Sets, feature_figures, split_in_halves
from unpaired.evaluation.inputs import Images
from unpaired.machine import Ranks, autocast, choose_device, has_bf16
from unpaired.networks import classifiers, inception


def random_state(name: str) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes for a backbone."""
    if name.startswith("fid"):
        return inception.FIDInception().state_dict()
    (layer, *_) = [layer for layer, _, _ in reversed(classifiers.NETWORKS[name].layers())]
    prefixes = {layer: prefix for layer, _, prefix in classifiers.NETWORKS[name].layers()}
    state = classifiers.Features(name, (layer,)).layers.state_dict()
    named = {k: (prefixes[k.split(".")[0]], *k.split(".")[1:]) for k in state}
    if name == "mobilenet_v1":  # 3.dw.bn.weight is dw3.bn.weight there
        named = {k: (n[1] + n[0], *n[2:]) if n[0].isdigit() else n for k, n in named.items()}
    return {".".join(named[k]): v for k, v in state.items()}


def opened(name: str, args: argparse.Namespace, device: torch.device, precision: str) -> tuple[NetworkBackbone, bool]:
    """The backbone, and whether its weights are real ones."""
    try:
        return open_backbone(name, args.weights, device, precision), True
    except WeightsError:
        if not args.random:
            raise
    torch.manual_seed(0)
    return backbone_from_state(name, random_state(name), device, precision), False


def passed(backbone: NetworkBackbone, pixels: np.ndarray[Any, Any], repeats: int) -> tuple[torch.Tensor, float]:
    """Features [N, D], and images a second of the best of ``repeats`` passes after one batch to warm up."""
    backbone(to_tensor(pixels[:BATCH]))
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        parts = [backbone(to_tensor(pixels[i : i + BATCH])) for i in range(0, len(pixels), BATCH)]
        best = max(best, len(pixels) / (time.perf_counter() - started))
    return torch.cat(parts), best


def inputs_of(name: str, count: int) -> torch.Tensor:
    """[count, 3, side, side] of the network's own side: the resize is the same for every way."""
    side = BACKBONES[name].side
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def reference(name: str, count: int, device: str, precision: str) -> Callable[[], torch.Tensor]:
    """The network as it is built."""
    torch.manual_seed(0)
    network = BACKBONES[name].build(random_state(name)).eval().to(device)
    images = inputs_of(name, count).to(device)

    def way() -> torch.Tensor:
        with torch.no_grad(), autocast(precision, images.device):
            return network(images).float()

    return way


def ours(name: str, count: int, device: str, precision: str) -> Callable[[], torch.Tensor]:
    """The backbone."""
    torch.manual_seed(0)
    backbone = backbone_from_state(name, random_state(name), choose_device(device), precision)
    images = inputs_of(name, count).to(device)
    return lambda: backbone(images)


def speed(args: argparse.Namespace) -> None:
    """The row of the table."""
    rows: list[Row] = []
    device = str(choose_device(args.device))
    for name in args.backbone.split(","):
        makers = {"reference": (reference, (name, args.images, device, "fp32"))}
        if args.precision == "bf16":
            makers["reference, autocast"] = (reference, (name, args.images, device, "bf16"))
        makers["ours"] = (ours, (name, args.images, device, args.precision))
        x, y = (maker(*given)().double().cpu() for maker, given in (makers["reference"], makers["ours"]))
        kinds = {k: "fp32" if k == "reference" else args.precision for k in makers}
        turns = interleave_apart(makers, rounds=args.rounds, precision=kinds, threads=args.threads or 1, device=device)
        row = compare(
            f"{name}, {args.images} images", turns, ways=list(makers), goal=4.0 if args.precision == "bf16" else 1.2
        )
        rows.append(replace(row, note=f"relative difference {float((x - y).norm() / x.norm()):.1e}"))
    write(rows, args.out, device=device)


def main() -> None:
    """Measure every backbone in both precisions."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path, nargs="?")
    p.add_argument("--weights", type=Path)
    p.add_argument("--backbone", default="mobilenet_v1")
    p.add_argument("--split", default="test")
    p.add_argument("--size", type=int, default=128)
    p.add_argument("--limit", type=int, default=500)
    p.add_argument("--repeats", type=int, default=2)
    p.add_argument("--threads", type=int)
    p.add_argument("--device", default="auto")
    p.add_argument("--random", action="store_true")
    p.add_argument("--out", type=Path)
    p.add_argument("--speed", action="store_true")
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    p.add_argument("--images", type=int, default=4, help="a call, with --speed")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    if args.speed:
        speed(args)
        return
    if args.data is None or args.out is None:
        p.error("DATA and --out are needed without --speed")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    pool = open_pool(find(args.data), DataConfig(size=args.size), split=args.split)
    images = Images(pool, args.size, 64, args.limit, 0)
    domains = pool.domains[:2]
    pixels = [np.concatenate([b for _, _, b in images.batches(images.items(d), Ranks())]) for d in domains]
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "torch": torch.__version__, "device": str(device), "bf16_units": has_bf16(device), "batch": BATCH, "size": args.size,
        "data": pool.fingerprint, "domains": list(domains), "n": [len(x) for x in pixels], "backbones": {},
    }  # fmt: skip
    for name in args.backbone.split(","):
        rates: dict[str, float] = {}
        figures: dict[str, dict[str, float]] = {}
        features = {}
        for precision in ("fp32", "bf16"):
            backbone, real = opened(name, args, device, precision)
            found = [passed(backbone, x, args.repeats) for x in pixels]
            rates[precision] = max(rate for _, rate in found)
            features[precision] = [x for x, _ in found]
            if real:
                a, b = features[precision]
                sets = Sets(a, a, b, split_in_halves(b, 0))
                made = feature_figures(sets, name, ("distances", "coverage"), resamples=0, seed=0)
                figures[precision] = {k: f["value"] for k, f in made.items() if f["value"] is not None}
        x, y = (torch.cat(features[k]).double() for k in ("fp32", "bf16"))
        entry: dict[str, Any] = {
            "images_per_second": rates, "weights": "real" if real else "random",
            "feature_error": float((x - y).norm() / x.norm()), "figures": figures,
        }  # fmt: skip
        if figures:
            one, other = figures["fp32"], figures["bf16"]
            entry["moved"] = {
                k: {"by": other[k] - one[k], "relative": (other[k] - one[k]) / one[k] if one[k] else None} for k in one
            }
        results["backbones"][name] = entry
        print(f"{name} ({entry['weights']} weights): {rates['fp32']:.1f} images/s fp32, {rates['bf16']:.1f} bf16; features differ by "
              f"{entry['feature_error']:.2%}", flush=True)  # fmt: skip
        for key, moved in entry.get("moved", {}).items():
            relative = f" ({moved['relative']:+.2%})" if moved["relative"] is not None else ""
            print(f"  {key:24} {figures['fp32'][key]:10.4g} {figures['bf16'][key]:10.4g} {moved['by']:+.3g}{relative}")
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
