"""The dirty-image zoo: every member gets its verdict, from the opener, from `check`, from training and from `translate`
(F6)."""

from __future__ import annotations

import json
from pathlib import Path

import kit
import numpy as np
import pytest
from figures import Figure
from image_zoo import snapshot, write_tree, write_zoo, zoo

import tiny
from unpaired import cli
from unpaired.data.images import open_image, show
from unpaired.data.sampling import open_pool
from unpaired.training import loop
from unpaired.training.run import build

ZOO = zoo()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the whole zoo in one domain and plain pictures in the other."""
    root = write_tree(tmp_path_factory.mktemp("zoo") / "data", {"train/b": 20, "test/a": 2, "test/b": 2})
    write_zoo(root / "train/a", ZOO)
    return root


def command(*arguments: object) -> kit.Outcome:
    return kit.outcome(lambda: cli.main([str(a) for a in arguments]))


def test_every_member_is_classified_as_specified(data: Path, figure: Figure) -> None:
    """`unpaired check` lists each bad, ignored and flat member with its reason and no other; exit 2, no traceback; the
    opener gives the specified pixels for every usable one; the folder's content and times are unchanged."""
    before = snapshot(data)
    told = command("check", data, "--json")
    assert told.code == 2 and "Traceback" not in told.said
    report = json.loads(told.said)
    found = {
        "bad": {Path(b["name"]).name: b["reason"] for b in report["bad"]},
        "ignored": {Path(b["name"]).name: b["reason"] for b in report["ignored"]},
        "flat": dict.fromkeys((Path(n).name for n in report["flat"]), ""),
    }
    right = 0
    for name, member in ZOO.items():
        shown = show(name)
        kinds = [kind for kind, names in found.items() if shown in names] or ["ok"]
        sound = kinds == [member.verdict] and (member.verdict == "ok" or member.said in found[member.verdict][shown])
        if member.pixels is not None:
            pixels = np.asarray(open_image(data / "train/a" / name))
            assert pixels.shape == member.pixels.shape, name
            assert np.abs(pixels.astype(int) - member.pixels).mean() <= member.within, name
        assert sound, (name, kinds, found.get(member.verdict, {}).get(shown), member.said)
        right += 1
    assert sum(map(len, found.values())) == sum(m.verdict != "ok" for m in ZOO.values())
    figure(
        "F6",
        f"{right} of {len(ZOO)} members classified as specified, 0 tracebacks, the folder unchanged by every command",
    )
    assert len(ZOO) >= 60 and snapshot(data) == before


def test_training_refuses_and_translating_goes_on(data: Path, tmp_path: Path) -> None:
    """Training on it exits 2; translating it exits 3 with each bad file in the report and each other one done; nothing
    is changed."""
    config = tiny.config()
    model = loop.fit(build(config, ("a", "b")), tiny_pool(), config, tmp_path / "run", quiet=True)
    before = snapshot(data)
    refused = command("train", data, "--out", tmp_path / "r", "--set", "data.size=16")
    assert refused.code == 2 and "more than 5%" in refused.said and "Traceback" not in refused.said
    told = command(
        "translate", model, data / "train/a", "--to", "b", "--out", tmp_path / "o", "--device", "cpu", "--quiet"
    )
    assert told.code == 3 and "Traceback" not in told.said
    report = json.loads((tmp_path / "o" / ".unpaired-report.json").read_text())
    failed = {Path(i["input"]).name for i in report["items"] if i["status"] == "failed"}
    too_small_to_train = {"dot.png", "strip.png"}
    assert failed == {show(n) for n, m in ZOO.items() if m.verdict == "bad"} - too_small_to_train
    assert snapshot(data) == before


def tiny_pool() -> object:
    from unpaired.data.sampling import ArrayPool

    return ArrayPool({"a": tiny.pictures(4), "b": tiny.pictures(4, seed=1)})


def test_near_constant_images_do_not_break_a_run(tmp_path: Path) -> None:
    """Flat images are flagged and allowed: a run on nothing else stays finite."""
    members = {n: m for n, m in ZOO.items() if m.verdict == "flat"}
    for domain in ("a", "b"):
        write_zoo(tmp_path / "data" / "train" / domain, members)
    config = tiny.config()
    pool = open_pool(tmp_path / "data", config.data)
    assert loop.fit(build(config, pool.domains), pool, config, tmp_path / "run", quiet=True).exists()
