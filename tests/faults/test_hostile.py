"""Checkpoints that mean harm: no code of theirs runs, each is refused soon and within little memory (F5)."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import kit
import pytest
import torch
from figures import Figure
from hostile_zoo import zoo

from unpaired import checkpoint, cli
from unpaired.errors import CheckpointError
from unpaired.interop.tensors import read_torch_file

ZOO = zoo()
SLACK = 64 * 2**20
"""Bytes of memory beyond twice the file's size that a refusal may take."""
HANG_CPU_SECONDS = 20.0
"""Of processor time. The figure to reach is 2, printed and not asserted: it is the machine's."""


def refusing(reader: str, path: Path) -> Callable[[], None]:
    """Read ``path``; exits 0 when it was refused in words."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        kit.bound_memory(
            2 * 2**30
        )  # a huge allocation that is never touched must fail here too, not on a smaller machine
        try:
            if reader == "torch":
                read_torch_file(path)
            elif reader == "ours":
                checkpoint.load_method(path)
            else:
                saved, rejected = checkpoint.latest(path / "checkpoints")
                assert saved is None and rejected
                raise CheckpointError(rejected[0])
        except CheckpointError as error:
            print(error)
        else:
            raise AssertionError("it was accepted")

    return work


def warm(tmp_path: Path) -> None:
    """Load here what the first reading loads, so that no child is blamed for it."""
    torch.save({"w": torch.ones(2)}, tmp_path / "warm.pt")
    read_torch_file(tmp_path / "warm.pt")


def size_of(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def test_hostile_checkpoints_are_refused(tmp_path: Path, figure: Figure) -> None:
    """Pickles with code, bombs, lying sizes, deep nests, forged headers, manifests and members that point elsewhere:
    each is refused with its path and the reason, runs nothing, and takes at most twice its size and 64 MB."""
    canary, slowest, largest = tmp_path / "canary", (0.0, ""), (0.0, "")
    warm(tmp_path)
    chosen = list(ZOO.items())
    for n, (name, hostile) in enumerate(chosen):
        path = tmp_path / f"{n}.file"
        hostile.make(path, canary)
        size = size_of(path)
        result = kit.outcome(refusing(hostile.reader, path))
        assert result.code == 0, (name, result.said)
        assert str(path) in result.said and hostile.said in result.said, (name, result.said)
        assert not canary.exists(), name
        assert result.grown <= 2 * size + SLACK, (name, result.grown, size)
        assert result.cpu < HANG_CPU_SECONDS, (name, result.cpu)
        slowest = max(slowest, (result.cpu, name))
        largest = max(largest, ((result.grown - 2 * size) / 2**20, name))
    figure(
        "F5",
        f"{len(chosen)} files: 0 run code, 0 accepted; slowest {slowest[0]:.2f} s of processor ({slowest[1]}; to "
        f"reach: 2); most memory beyond twice the size {largest[0]:.0f} MiB ({largest[1]}; bound 64)",
    )
    assert len(ZOO) >= 50


@pytest.mark.parametrize("name", ["code in a zip", "code in an old file", "a tar"])
def test_no_command_falls_back_to_something_less_safe(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever command is given the file: exit 2, and its code does not run, not even when the environment asks torch
    for it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, canary = tmp_path / "gen.pkl", tmp_path / "canary"
    ZOO[name].make(path, canary)
    out = str(tmp_path / "m")
    for arguments in (
        ["import", "unit-v2", str(path), "--domains", "a,b", "--out", out],
        ["import", "unit-munit", str(path), "--domains", "a,b", "--out", out],
        ["import", "cyclegan", str(path), "--domains", "a,b", "--out", out],
        ["import", "biggan", str(path), str(path), "--out", out],
        ["info", str(path)],
        ["translate", str(path), str(tmp_path), "--to", "a", "--out", out],
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 2, (arguments, capsys.readouterr().err)
        assert not canary.exists() and not Path(out).exists()
    assert "Traceback" not in capsys.readouterr().err
