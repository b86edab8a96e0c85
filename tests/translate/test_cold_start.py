"""What a cold start imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cases
from PIL import Image

import tiny
from unpaired import checkpoint

COMPILES = "cycle"
"""PyTorch's spectral norm, which its projected discriminator has, computes while it is built, and imports the compiler
for that."""
BESIDE = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "torchvision",
    "torchmetrics",
    "matplotlib",
    "sklearn",
    "scipy",
    "rich",
)
"""What translating has no use for. PyTorch's compiler alone takes as long to import as PyTorch itself."""
COLD = """
import sys, json
from pathlib import Path
from unpaired.cli import main
models, picture, beside = json.loads(sys.argv[1])
for name, (path, source, target) in models.items():
    folder = Path(path).with_suffix("")
    try:
        main(["translate", path, picture, "--source", source, "--to", target, "--device", "cpu", "--out", str(folder)])
    except SystemExit as left:
        assert not left.code, name
    found = [module for module in beside if module in sys.modules]
    assert not found, (name, found)
    assert list(folder.rglob("*.png")), name
"""


def test_a_cold_start_imports_nothing_beside_what_it_needs(tmp_path: Path) -> None:
    """Reading a model file of each method that translates and making its first picture imports none of BESIDE: networks
    are built without drawing weights and without a pass, and there is no progress bar where there is no terminal."""
    models = {}
    for name in sorted(set(cases.TRANSLATORS) - {COMPILES}):
        method, config = cases.method(name), cases.config(name)
        file = checkpoint.write_model(tmp_path / f"{name}.safetensors", method, checkpoint.make_header(method, config))
        models[name] = str(file), *method.directions[0]
    picture = tmp_path / "in.png"
    Image.fromarray(tiny.pictures(1, 40, seed=0)[0]).save(picture)
    arguments = json.dumps([models, str(picture), BESIDE])
    here = f"import sys; sys.path[:0] = {sys.path!r}; import tiny\n"
    done = subprocess.run([sys.executable, "-c", here + COLD, arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
