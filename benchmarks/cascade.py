"""The cascade against each level alone (Table 1 of the paper), in both directions.

    python benchmarks/cascade.py DATA --out RESULTS --preset cascade-mobilenet-128 --weights FOLDER [--run RUN] [--steps
    N] [--set KEY=VALUE …]

Trains the cascade of the preset (or takes the finished --run), then each of its levels alone: an unconditional
translator as Table 3 has it, with as many steps, on the same statistics and with the same inversion networks, which are
copied. The deepest level alone is the cascade's own first stage. Every run resumes when the same command is given
again.

For each arrangement and direction: FD and KD over MobileNet v1 (not FID) of the translations of all test images of the
source against all real images of the target, with both N. ``units`` is the map of the last level passed on in the other
domain's units, without any translator; ``input`` the source's test images untranslated; ``inversion`` the inversion of
the target's own test images: what the way through features costs; ``real`` one random half of the target's images
against the other, the floor. Sheets of all levels lie in RESULTS/levels. --deepvae DOMAIN adds samples of a DeepVAE run
(--deepvae-run).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unpaired
from unpaired import checkpoint
from unpaired.config import DataConfig, RunConfig, parse_assignments
from unpaired.data.folders import find
from unpaired.data.images import to_tensor
from unpaired.data.sampling import centre_crops, open_pool
from unpaired.evaluation.distances import gaussian_distance, kernel_distance
from unpaired.evaluation.features import Backbone, open_backbone
from unpaired.evaluation.figures import split_in_halves
from unpaired.methods.cascade import Cascade
from unpaired.training import run as training_run
from unpaired.translate.synthesis import drawn, latents, write_level_sheets
from unpaired.translate.translator import Translator

BATCH = 16
SHEETS = 12
"""Sheets of levels for each direction."""


def images(data: Path, config: DataConfig, split: str, domain: str) -> Tensor:
    """All centre crops of a domain in one split."""
    pool = open_pool(find(data), config, split)
    return to_tensor(centre_crops(pool, domain, range(pool.count(domain)), config))


def features(backbone: Backbone, pictures: Tensor) -> Tensor:
    """[N, D]: features of each picture."""
    return torch.cat([backbone(part) for part in torch.split(pictures, BATCH)])


def each(make: Callable[..., Tensor], pictures: Tensor, *domains: str) -> Tensor:
    """``make(pictures, *domains)``, a batch at a time."""
    return torch.cat([make(part, *domains) for part in torch.split(pictures, BATCH)])


def distances(x: Tensor, y: Tensor) -> dict[str, Any]:
    """FD and KD with both N."""
    kernel = kernel_distance(x, y)
    return {"fd": round(gaussian_distance(x, y), 3), "kd": round(1e3 * kernel.mean, 3), "n": [len(x), len(y)]}


def alone(level: int, whole: Cascade, config: RunConfig, out: Path) -> tuple[Path, Path]:
    """Settings and start of a run of one level with the pyramid and inversion networks of ``whole``."""
    steps = {"inversion_steps": 0, "kept_levels": (), "invert_all": False}
    one = config.model_copy(update={"model": config.model.model_copy(update={"levels": (level,), **steps})})
    method = training_run.build(one, whole.domains)
    assert isinstance(method, Cascade)
    known = whole.state_dict()
    index = whole.config.levels.index(level)
    taken = {k: known[k] for k in method.state_dict() if k in known and k.split(".")[0] in ("pyramid", "inverters")}
    taken["inverted_on"] = known["inverted_on"][index : index + 1]
    if index == 0:  # the deepest level alone is what the cascade begins with
        taken |= {k: v for k, v in known.items() if k.startswith(f"makers.{level}.")}
        taken |= {"made_on": known["made_on"][:1], "reached": torch.ones_like(method.reached)}
    method.load_state_dict(taken, strict=False)
    method.check_parts()
    settings, start = out / f"alone-{level}.toml", out / f"alone-{level}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    settings.write_text(one.to_toml())
    checkpoint.write_model(start, method, checkpoint.make_header(method, one))
    return settings, start


def main() -> None:
    """Train what is missing, measure, write ``results.json`` and sheets, print a table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("data", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--preset", default="cascade-mobilenet-128")
    p.add_argument("--weights", required=True, help="folder with the pretrained networks")
    p.add_argument("--run", type=Path, help="a finished cascade of the same data and settings")
    p.add_argument("--steps", type=int)
    p.add_argument("--no-alone", action="store_true", help="leave the single levels out")
    p.add_argument("--deepvae-run", type=Path, help="a finished DeepVAE of one of the domains")
    p.add_argument("--device", default="auto")
    p.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = p.parse_args()
    run = args.run or args.out / "cascade"
    if args.run is None:
        settings = {"model.weights": args.weights, "training.device": args.device, **parse_assignments(args.set)}
        unpaired.train(args.data, run, preset=args.preset, settings=settings, steps=args.steps)
    models = {"cascade": unpaired.load(run, device=args.device)}
    whole = models["cascade"].method
    assert isinstance(whole, Cascade)
    config = training_run.resolve(run_dir=run)
    if not args.no_alone:
        for level in whole.config.inverted:  # without an inversion network there is no picture of it
            settings_file, start = alone(level, whole.cpu(), config, args.out)
            if level == whole.config.levels[0]:
                models[f"level {level} alone"] = unpaired.load(start, device=args.device)
            else:
                models[f"level {level} alone"] = unpaired.train(
                    args.data, args.out / f"alone-{level}", config=settings_file, start_from=start
                )
    whole.to(models["cascade"].device)
    backbone = open_backbone("mobilenet_v1", args.weights, models["cascade"].device)
    directions = models["cascade"].directions
    real = {
        d: torch.cat([features(backbone, images(args.data, config.data, s, d)) for s in ("train", "test")])
        for d in whole.domains
    }
    tests = {d: images(args.data, config.data, "test", d) for d in whole.domains}
    rows: dict[str, dict[str, Any]] = {}

    def row(name: str, make: Callable[[str, str], Tensor]) -> None:
        """Distances of ``make(source, target)`` to the target's real images, both directions."""
        rows[name] = {f"{a} -> {b}": distances(features(backbone, make(a, b)), real[b]) for a, b in directions}
        print(name, json.dumps(rows[name]), flush=True)

    rows["real"] = {f"{a} -> {b}": distances(*split_in_halves(real[b], seed=0)) for a, b in directions}
    row("input", lambda a, b: tests[a])
    row("inversion", lambda a, b: each(models["cascade"].reconstruct, tests[b], b))
    reached = whole.reached.clone()
    whole.reached.zero_()
    row("units", lambda a, b: each(models["cascade"].translate, tests[a], a, b))
    whole.reached.copy_(reached)
    for name, model in models.items():
        row(name, lambda a, b, model=model: each(model.translate, tests[a], a, b))  # type: ignore[misc]
    for a, b in directions:
        files = find(args.data).files["test", a][:SHEETS]
        write_level_sheets(models["cascade"], files, to=b, source=a, folder=args.out / "levels" / f"{a}-{b}")
    vae = deepvae_row(args.deepvae_run, real, backbone, args.device) if args.deepvae_run else {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    about = {
        "backbone": "mobilenet_v1",
        "backbone_sha256": backbone.sha256,
        "kd": "1000 times the estimate",
        "commit": commit,
        "machine": platform.machine(),
        "model": {n: m.sha256 for n, m in models.items()},
        "config": config.to_dict(),
    }
    (args.out / "results.json").write_text(json.dumps({"rows": rows, **vae, "about": about}, indent=1))
    for name, found in rows.items():
        print(
            f"{name:16}" + "  ".join(f"{k}: FD {v['fd']:8.2f} KD {v['kd']:7.2f} n {v['n']}" for k, v in found.items())
        )


def deepvae_row(run: Path, real: dict[str, Tensor], backbone: Backbone, device: str) -> dict[str, Any]:
    """Distances of as many samples as the domain has real images."""
    model: Translator = unpaired.load(run, device=device)
    (domain,) = model.domains
    noise = latents(model, len(real[domain]), seed=0)
    samples = torch.cat([backbone(part) for part in drawn(model, noise, domain)])
    return {"deepvae": {domain: distances(samples, real[domain]), "model": model.sha256}}


if __name__ == "__main__":
    main()
