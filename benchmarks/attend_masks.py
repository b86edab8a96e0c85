"""Looks at a trained model of method attend: sheets of input, G0(x), mask and G(x), λ over the steps, and the background's fidelity.

    python benchmarks/attend_masks.py RUN PICTURES --out report.html [--without MODEL] [--count 16]

RUN is a run folder or a model file, PICTURES a folder of the source domain (test images). Outside the mask region (mask below
``--threshold``) the mean |Δ| between a picture and its translation is given for G(x), for G0(x), and for ``--without``: any model
that translates the same way without attention, looked at outside the same masks. 0 is untouched, in grey levels of 255.
Beside the page, report.json holds the figures.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unpaired import load
from unpaired.config import DataConfig
from unpaired.data.images import IMAGE_SUFFIXES, open_image, resize, to_tensor, to_uint8
from unpaired.methods.attend import Attend
from unpaired.report import Report, line_panel
from unpaired.translate.translator import Translator


def read(folder: Path, side: int) -> Tensor:
    """All pictures, centre-cropped squares, [N, 3, S, S] in [-1, 1]."""
    crops = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
        image = np.asarray(resize(open_image(path), side, DataConfig()))
        top, left = ((n - side) // 2 for n in image.shape[:2])
        crops.append(image[top : top + side, left : left + side])
    return to_tensor(np.stack(crops))


def outside(x: Tensor, y: Tensor, region: Tensor) -> float:
    """Mean |x - y| in grey levels where ``region`` [N, 1, H, W] is False."""
    away = ~region.expand_as(x)
    return float((x - y).abs()[away].mean() * 127.5)


def learning(page: Report, run: Path) -> None:
    """λ and the loss it follows, from the run's log, where RUN is a run folder."""
    log = run / "log.jsonl"
    if not log.is_file():
        return
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    page.section("Training")
    for title, names in {
        "λ, in units of 1 / distance": ("lambda/level",),
        "Loss that decides on λ": ("lambda/watched",),
    }.items():
        found = {n: ([e["step"] for e in lines if n in e], [e[n] for e in lines if n in e]) for n in names}
        if any(steps for steps, _ in found.values()):
            page.panels([line_panel(title, found)], caption=f"{title} over the steps of all stages.")


def main() -> None:
    """Parse, translate, measure, write the page and its figures."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("pictures", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--without", type=Path, help="model of the same direction without attention")
    p.add_argument("--threshold", type=float, default=0.5)
    p.add_argument("--count", type=int, default=16, help="pictures on the sheet; all are measured")
    p.add_argument("--device", default="auto")
    args = p.parse_args()
    model = load(args.run, device=args.device)
    method = model.method
    if not isinstance(method, Attend) or method.branch is None or not bool(method.attending):
        raise SystemExit(f"{args.run}: not a model of method attend whose second stage has begun")
    source, target = model.directions[0]
    x = read(args.pictures, method.image_size)
    parts = x.split(8)
    final = torch.cat([model.translate(part, source, target).cpu() for part in parts])
    mask = torch.cat([model.attention(part).cpu() for part in parts])
    with torch.inference_mode():
        initial = torch.cat([method.generator(part.to(model.device)).float().cpu() for part in parts])
    region = mask >= args.threshold
    rows = [("G(x), with the mask", outside(x, final, region)), ("G0(x), without it", outside(x, initial, region))]
    if args.without is not None:
        other: Translator = load(args.without, device=args.device)
        theirs = torch.cat([other.translate(part, None, target).cpu() for part in parts])
        rows.append((f"{other.header.get('method')} without attention", outside(x, theirs, region)))
    figures = {
        "n": len(x), "threshold": args.threshold, "outside": dict(rows), "mask_mean": float(mask.mean()),
        "mask_share": float(region.float().mean()), "untouched_share": float((mask == 0).float().mean()),
        "model": str(args.run), "sha256": model.sha256, "step": model.header.get("step"),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip(),
    }  # fmt: skip
    n = args.count
    page = Report(f"{source} → {target}: where it changes what", lead=f"{len(x)} pictures, step {figures['step']}.")
    page.section("Pictures")
    shown = {"input": to_uint8(x[:n]), "G0(x)": to_uint8(initial[:n])}
    shown |= {"mask": (mask[:n, 0] * 255).round().to(torch.uint8).numpy(), "G(x)": to_uint8(final[:n])}
    page.sheet(shown, alt=f"{source} to {target}", caption="Input, G0(x), mask, G(x).")
    page.section("Background")
    page.table(
        ("picture", "mean |Δ| outside"), rows, caption=f"Grey levels of 255, where the mask is below {args.threshold}."
    )
    page.text(
        f"The mask is at least {args.threshold} on {figures['mask_share']:.1%} of the pixels, 0 on "
        f"{figures['untouched_share']:.1%}, and {figures['mask_mean']:.3f} on average."
    )
    learning(page, args.run)
    page.write(args.out)
    args.out.with_suffix(".json").write_text(json.dumps(figures, indent=1))
    Image.fromarray(np.concatenate([np.concatenate(list(_rgb(v)), axis=1) for v in shown.values()])).save(
        args.out.with_suffix(".png")
    )
    print(json.dumps(figures, indent=1))


def _rgb(images: np.ndarray) -> np.ndarray:
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=3)


if __name__ == "__main__":
    main()
