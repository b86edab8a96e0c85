"""The power fails at any call of a save: what was acknowledged is there afterwards.

It is judged on a model of a disk that keeps its word and no more: a file that was not fsynced may be empty, an
entry of a folder (a new name, a rename, a removal) that was not followed by an fsync of that folder may or may not have
happened.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import runs
from figures import Figure

from unpaired import checkpoint


class Recorder:
    """Every change of the disk below ``root`` that goes through os, with a copy of the content written."""

    def __init__(self, root: Path) -> None:
        self.root, self.events, self.names = root, list[tuple[Any, ...]](), dict[int, str]()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        real = {
            c: getattr(os, c)
            for c in ("open", "write", "fsync", "close", "rename", "replace", "unlink", "mkdir", "rmdir")
        }
        for call in real:
            setattr(os, call, self._wrap(call, real[call]))
        try:
            yield
        finally:
            for call, function in real.items():
                setattr(os, call, function)

    def acknowledge(self, step: int) -> None:
        self.events.append(("acknowledged", step))

    def _path(self, path: Any, options: dict[str, Any]) -> str:
        folder = options.get("dir_fd")
        return str(Path(self.names.get(folder, ""), os.fsdecode(path)))

    def _wrap(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            result = real(*args, **options)
            if call == "open":
                self.names[result] = self._path(args[0], options)
                if len(args) > 1 and args[1] & os.O_TRUNC:
                    self.events.append(("create", self.names[result]))
            elif call in ("write", "fsync"):
                name = self.names.get(args[0], "")
                self.events.append((call, name, bytes(args[1][:result])) if call == "write" else (call, name))
            elif call == "close":
                self.names.pop(args[0], None)
            elif call in ("rename", "replace"):
                self.events.append(("rename", os.fsdecode(args[0]), os.fsdecode(args[1])))
            else:
                self.events.append((call, self._path(args[0], options)))
            return result

        return wrapped


class Disk:
    """The model: two images of the tree, what the system shows and what is safe, and the changes of each folder not yet
    safe."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        """What each file object holds, by its identity."""
        self.safe_data: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        """Path -> identity, as the system shows it."""
        self.pending: list[tuple[str, Callable[[dict[str, str]], None]]] = []
        """(folder, change) in order, not yet made safe by an fsync of the folder."""
        self.safe: dict[str, str] = {}

    def play(self, number: int, event: tuple[Any, ...]) -> None:
        kind, path = event[0], str(event[1])
        folder = str(Path(path).parent)
        if kind == "create":
            self.data[f"{number}"] = b""
            self._change(folder, lambda names, p=path, n=f"{number}": names.__setitem__(p, n))  # type: ignore[misc]
        elif kind == "write" and path in self.names:
            self.data[self.names[path]] += event[2]
        elif kind == "fsync" and path in self.names:
            self.safe_data[self.names[path]] = self.data[self.names[path]]
        elif kind == "fsync":
            for change in [c for f, c in self.pending if f == path]:
                change(self.safe)
            self.pending = [(f, c) for f, c in self.pending if f != path]
        elif kind == "rename":
            self._change(str(Path(event[2]).parent), lambda names, a=path, b=str(event[2]): _move(names, a, b))  # type: ignore[misc]
        elif kind == "unlink":
            self._change(folder, lambda names, p=path: names.pop(p, None))  # type: ignore[misc]

    def _change(self, folder: str, change: Callable[[dict[str, str]], None]) -> None:
        change(self.names)
        self.pending.append((folder, change))

    def after_power_loss(self, happened: Callable[[int], bool]) -> dict[str, bytes]:
        """The files that are there: of the changes that are not safe, those for which ``happened`` says so."""
        names = dict(self.safe)
        for n, (_, change) in enumerate(self.pending):
            if happened(n):
                change(names)
        return {path: self.safe_data.get(identity, b"") for path, identity in names.items()}


def _move(names: dict[str, str], a: str, b: str) -> None:
    for path in [p for p in names if p == a or p.startswith(a + os.sep)]:
        names[b + path[len(a) :]] = names.pop(path)


def losses(run: Path, place: Path) -> tuple[int, int, int]:
    """Record a run; cut the power after each of its calls, in three ways; (cuts, states lost, cuts with a half-written
    folder)."""
    recorder = Recorder(run)
    with recorder.watching(), runs.noted(None):
        save = runs.loop.Trainer.save

        def noted(self: Any) -> Path:
            path = save(self)
            recorder.acknowledge(self.state.step)
            return path

        runs.loop.Trainer.save = noted  # type: ignore[method-assign]
        runs.train(run, 3, training__keep=1)
    disk, acknowledged, cuts, lost, half = Disk(), -1, 0, 0, 0
    root = str(run / "checkpoints")
    for number, event in enumerate(recorder.events):
        if event[0] == "acknowledged":
            acknowledged = event[1]
            continue
        disk.play(number, event)
        if not str(event[1]).startswith(root):
            continue
        for happened in (lambda n: True, lambda n: False, lambda n: n % 2 == 0):
            cuts += 1
            shutil.rmtree(place, ignore_errors=True)
            (place / "checkpoints").mkdir(parents=True)
            for path, content in disk.after_power_loss(happened).items():
                if path.startswith(root + os.sep):
                    target = place / "checkpoints" / os.path.relpath(path, root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
            half += any((place / "checkpoints").glob(".tmp-*"))
            try:
                saved, _ = checkpoint.latest(place / "checkpoints")
                lost += (saved.step if saved else -1) < acknowledged
            except checkpoint.CheckpointError:
                lost += 1
    return cuts, lost, half


def test_power_loss_after_every_call_loses_nothing(tmp_path: Path, figure: Figure) -> None:
    """After each call of a run the power fails: whether the changes of folders that are not yet safe happened, or not,
    or every second one, a state at least as new as the last acknowledged one loads."""
    cuts, lost, half = losses(tmp_path / "run", tmp_path / "after")
    figure(
        "F1",
        f"power cut after each call of 4 saves, in 3 ways ({cuts} cuts, {half} with a half-written folder): {lost} "
        "states lost",
    )
    assert cuts > 100 and half > 20 and lost == 0
