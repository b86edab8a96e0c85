"""Two processes (gloo): the same weights on both, resume, and one rank's trouble stops both at the same step."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from unpaired import checkpoint

CHILD = """
import os, sys; sys.path.insert(0, {tests!r})
import tiny, torch; torch.set_num_threads(1)
from unpaired import signals, training
from unpaired.errors import UnpairedError
from unpaired.runs import build
rank = int(os.environ["RANK"])
config = tiny.config(model__batch_size=4, model__first_steps={steps}, training__checkpoint_every=1000)
def on_step(step, method):
    if step == {digest_at}:
        open({run!r} + f"/weights-{{rank}}", "wb").write(b"".join(p.detach().numpy().tobytes() for p in method.parameters()))
    if step == {poison_at} and rank == 1:
        method.forth[0].weight.data.fill_(float("nan"))
with signals.handled():
    try:
        training.fit(build(config, ("red", "blue")), tiny.pool(), config, {run!r}, quiet=True, on_step=on_step)
    except UnpairedError as error:
        print(error, file=sys.stderr); sys.exit(error.exit_code)
"""


def start(run: Path, steps: int = 6, digest_at: int = -1, poison_at: int = -1) -> list[subprocess.Popen[str]]:
    """Two ranks of one job, as torchrun would start them."""
    run.mkdir(exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    script = CHILD.format(
        tests=str(Path(__file__).parent), run=str(run), steps=steps, digest_at=digest_at, poison_at=poison_at
    )
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "UNPAIRED_RANK_TIMEOUT": "60",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(2)
    ]  # fmt: skip


def finish(job: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and standard error of each rank."""
    said = [child.communicate(timeout=120)[1] for child in job]
    return [(child.returncode, text) for child, text in zip(job, said, strict=True)]


def test_ranks_agree_and_one_ranks_trouble_stops_both(tmp_path: Path) -> None:
    """Weights are equal on both ranks after 13 steps; NaN on rank 1 stops both at the next step with exit 4 and no bad checkpoint;
    SIGTERM to rank 1 alone saves one checkpoint and both leave with 143."""
    whole, poisoned, stopped = (tmp_path / n for n in ("whole", "poisoned", "stopped"))
    assert [code for code, _ in finish(start(whole, digest_at=13))] == [0, 0]
    assert (whole / "weights-0").read_bytes() == (whole / "weights-1").read_bytes() != b""

    results = finish(start(poisoned, poison_at=8))
    assert [code for code, _ in results] == [4, 4], results
    assert all("step 9" in text for _, text in results)
    saved, _ = checkpoint.latest(poisoned / "checkpoints")
    assert saved is not None and saved.step == 0

    job = start(stopped, steps=100_000)
    log, deadline = stopped / "log.jsonl", time.monotonic() + 60
    while not log.exists() or log.read_text().count("\n") < 3:
        assert time.monotonic() < deadline and all(child.poll() is None for child in job)
        time.sleep(0.02)
    job[1].send_signal(signal.SIGTERM)
    results = finish(job)
    assert [code for code, _ in results] == [143, 143], results
    saved, _ = checkpoint.latest(stopped / "checkpoints")
    assert saved is not None
    assert saved.step == max(json.loads(line)["step"] for line in log.read_text().splitlines())
    assert [f.name for f in checkpoint.steps(stopped / "checkpoints")] == [saved.folder.name, "step-000000000"]
