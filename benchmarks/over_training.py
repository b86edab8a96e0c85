"""Distances over training: evaluate every kept checkpoint of a run on the test split, and write a table and a sheet.

    python benchmarks/over_training.py RUN DATA --weights WEIGHTS --out results.json [--every 1000]

Nothing is chosen by these figures: the last checkpoint is the result, the others show the way there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import unpaired
from unpaired import checkpoint


def main() -> None:
    """Evaluate checkpoint by checkpoint."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path)
    p.add_argument("data", type=Path)
    p.add_argument("--weights", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--every", type=int, default=1)
    p.add_argument("--limit", type=int)
    args = p.parse_args()
    results: dict[str, Any] = {}
    for folder in reversed(checkpoint.steps(args.run / "checkpoints")):
        step = int(folder.name.removeprefix("step-"))
        if step % args.every:
            continue
        found = unpaired.evaluate(folder, args.data, weights=args.weights, limit=args.limit)
        results[str(step)] = found
        args.out.write_text(json.dumps(results, indent=1))
        print(step, json.dumps(found["directions"])[:400], flush=True)


if __name__ == "__main__":
    main()
