"""What a training step costs, asserted exactly: FLOP, convolutions, optimiser kernels, reads that would stop a GPU, allocations, graph
breaks; and what a cold start imports.

Tiny configurations of the contract tests, so that seconds suffice; what is counted does not depend on the machine. A change that
makes a step cheaper changes ``STEPS`` and says so; one that makes it dearer fails here first.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cases
import pytest
import torch
from flops import flop_counter
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import tiny
from unpaired import checkpoint
from unpaired.batch import Batch
from unpaired.methods import METHODS
from unpaired.training import loop

COUNTED = ("convolution", "convolution_backward", "_local_scalar_dense", "_fused_adam_")
STEPS: dict[tuple[str, str], tuple[int, ...]] = {
    ("attend", "initial"): (8192256, 28, 24, 2, 2, 501, 1063913),
    ("attend", "attention"): (61829376, 38, 26, 2, 2, 512, 4017181),
    ("attend", "joint"): (64815360, 38, 34, 2, 3, 626, 4260662),
    ("biggan", "train"): (68784632, 40, 30, 2, 2, 1554, 6127450),
    ("cascade", "inversion-3"): (22593792, 74, 52, 2, 2, 908, 5491950),
    ("cascade", "level-5"): (6269808, 104, 42, 3, 3, 1239, 2045717),
    ("cascade", "level-4"): (11713632, 116, 30, 3, 3, 1301, 3394085),
    ("cascade", "level-3"): (17116128, 136, 38, 3, 3, 1373, 4057413),
    ("deepi2i", "adaptor"): (76595056, 136, 62, 4, 2, 3249, 7250596),
    ("deepi2i", "finetune"): (84333936, 136, 68, 4, 3, 3699, 7695508),
    ("deepi2i-stylegan", "adaptor"): (19434544, 258, 152, 12, 2, 2494, 6034548),
    ("deepi2i-stylegan", "finetune"): (20269872, 258, 154, 12, 4, 2858, 6310848),
    ("deepvae", "inversion-5"): (11979648, 46, 27, 2, 2, 551, 3177264),
    ("deepvae", "inversion-4"): (10856064, 39, 26, 2, 2, 494, 2767096),
    ("deepvae", "level-5"): (88776, 10, 9, 1, 2, 336, 68487),
    ("deepvae", "level-4"): (1701936, 26, 11, 3, 3, 413, 491825),
    ("stylegan", "train"): (8779352, 97, 71, 6, 3, 1383, 2778226),
    ("tiny", "first"): (1906688, 16, 12, 5, 3, 225, 389993),
    ("tiny", "second"): (2433024, 8, 8, 1, 2, 145, 353535),
    ("unit", "train"): (207192064, 272, 192, 4, 5, 3154, 17314916),
    ("unit-digits", "train"): (301940736, 47, 32, 2, 5, 751, 19762102),
}
"""(method, stage) -> FLOP, calls of COUNTED, allocations and their bytes, in one round of the stage's players. The last two are the
results of operators that are no views of an argument; what a kernel needs inside differs between machines and is left out."""


def storages(tree: Any) -> dict[int, int]:
    """Address of the storage object and bytes, of every tensor in a nest of arguments or results."""
    found = (t.untyped_storage() for t in tree_flatten(tree)[0] if isinstance(t, torch.Tensor))
    return {s._cdata: s.nbytes() for s in found}


class Calls(TorchDispatchMode):
    """Counts calls by the operator's name, and the memory that operators ask for: results that are no views of an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.allocations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        result = func(*args, **(kwargs or {}))
        given = storages((args, kwargs))
        made = [size for storage, size in storages(result).items() if storage not in given]
        self.allocations += len(made)
        self.bytes += sum(made)
        return result


def measured(name: str) -> dict[tuple[str, str], tuple[int, ...]]:
    """The rows of a method."""
    trainer, found = cases.trainer(name), {}
    for stage in trainer.state.plan.stages:
        if stage.start is not None:
            stage.start()
        trainer.modes(stage)
        batch = trainer.batches()
        trainer.state.step = 0
        images = next(batch)
        period = math.lcm(*(u.every for u in stage.updates))

        def one_round(stage: loop.Stage = stage, images: Batch = images, period: int = period) -> None:
            for _ in range(period):
                trainer.state.step += 1
                trainer.run_step(stage, 0, images.part(0, 1))

        with flop_counter() as flop, Calls() as calls:
            one_round()
        operators = (calls.count[op] for op in COUNTED)
        found[name, stage.name] = (flop.get_total_flops(), *operators, calls.allocations, calls.bytes)
    return found


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_step_costs_what_it_cost(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOP, convolutions forward and backward, reads of single numbers, optimiser kernels and allocations of each stage are those of STEPS.

    Reads: one a loss, whether it is finite, before the update is kept (a CPU's alone: a GPU keeps a flag instead). Those beyond
    are StyleGAN's style mixing (draws on the CPU). Kernels: one a parameter group, not one a tensor.
    """
    monkeypatch.setenv("UNPAIRED_CACHE", str(tmp_path))  # empty: deepvae's features are not there yet
    found = measured(name)
    assert found == {key: value for key, value in STEPS.items() if key[0] == name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "update", "breaks"),
    [("unit", "generator", 0), ("attend", "joint-discriminator", 0)],
)
def test_graph_breaks_of_compiled_losses(name: str, update: str, breaks: int) -> None:
    """torch.compile takes UNIT's generator loss whole, and attend's discriminator with its history of images."""
    trainer = cases.trainer(name)
    stage = trainer.state.plan.stages[-1]
    trainer.modes(stage)
    wanted = next(u for u in stage.updates if u.name == update)
    for module in wanted.modules:
        module.requires_grad_(True)
    torch._dynamo.reset()
    found = torch._dynamo.explain(lambda b: wanted.loss(*stage.arguments(b)))(next(trainer.batches()))  # type: ignore[no-untyped-call]
    assert found.graph_break_count == breaks, [reason.reason for reason in found.break_reasons]


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
    """Reading a model file of each method and making its first picture imports none of BESIDE: networks are built without drawing
    weights and without a pass, and there is no progress bar where there is no terminal."""
    models = {}
    for name in METHODS:
        method, config = cases.method(name), cases.config(name)
        file = checkpoint.write_model(tmp_path / f"{name}.safetensors", method, checkpoint.make_header(method, config))
        models[name] = str(file), *method.directions[0]
    picture = tmp_path / "in.png"
    Image.fromarray(tiny.pictures(1, 40, seed=0)[0]).save(picture)
    arguments = json.dumps([models, str(picture), BESIDE])
    here = f"import sys; sys.path[:0] = {sys.path!r}; import tiny\n"
    done = subprocess.run([sys.executable, "-c", here + COLD, arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    for each in sorted(METHODS):
        for key, value in measured(each).items():
            print(f"    {key}: {value},")
