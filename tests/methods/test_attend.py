"""attend: sizes of the networks, composition, the equations, weight induction, stages, masks in files, presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import tiny
from unpaired import checkpoint, losses
from unpaired.batch import Batch
from unpaired.data.images import to_tensor, to_uint8
from unpaired.errors import ConfigError, RefusedError
from unpaired.methods import run_from
from unpaired.methods.attend import MASK_FLOOR, Attend, AttendConfig
from unpaired.networks.convnets import AttentionBranch, ImageBuffer, ResnetGenerator, WeightInduction
from unpaired.training import loop
from unpaired.translate.files import mask_to_uint8, translate_files
from unpaired.translate.translator import Translator, load

DOMAINS = ("horse", "zebra")


def small(domains: tuple[str, ...] = DOMAINS, **settings: Any) -> Attend:
    """A narrow network with random weights."""
    torch.manual_seed(0)
    model = {**cases.SETTINGS["attend"]["model"], **settings}
    return Attend(AttendConfig(**model), domains, image_size=16)


def batch(n: int = 2) -> Batch:
    """Noise."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.rand(n, 3, 16, 16, generator=g) * 2 - 1 for _ in range(2))
    return Batch(x, torch.zeros(n, dtype=torch.int64), y, torch.ones(n, dtype=torch.int64))


def parameters(network: nn.Module) -> int:
    """How many numbers are learnt."""
    return sum(p.numel() for p in network.parameters())


# -- networks


def test_sizes_of_the_published_networks() -> None:
    """11.39 million parameters in G0 at width 64, 2.39 in the attention branch, 2.77 in the discriminator, whose
    256-pixel images give 30 x 30 patches; dilation changes no size."""
    with torch.device("meta"):
        method = Attend(AttendConfig(), DOMAINS, image_size=256)
        assert parameters(method.generator) == 11_388_675
        assert method.branch is not None and parameters(method.branch) == 2_392_001
        assert parameters(method.discriminator) == 2_766_529
        x = torch.empty(1, 3, 256, 256)
        assert method.discriminator(x)[0].shape == (1, 1, 30, 30)
        assert method.generator(x).shape == x.shape and method.branch(x).shape == (1, 1, 256, 256)
        assert parameters(ResnetGenerator(32, dilation=2, norm="batch")) == 2_855_811


@pytest.mark.parametrize("network", ["vgg19", "squeezenet1_1"])
def test_attention_branch_gives_a_mask_of_the_same_size(network: str) -> None:
    """Both trunks give one channel in [0, 1] at the image's size, also where it is no multiple of 8, and learn down to
    the first layer."""
    torch.manual_seed(0)
    branch = AttentionBranch(network, "instance")
    mask = branch(torch.rand(1, 3, 36, 52))
    assert mask.shape == (1, 1, 36, 52) and 0 <= float(mask.detach().min()) <= float(mask.detach().max()) <= 1
    mask.sum().backward()
    first = next(iter(branch.trunk.parameters()))
    assert first.grad is not None and float(first.grad.abs().sum()) > 0


def test_image_buffer() -> None:
    """The first images come back as they are and fill it; then about half of the new ones are swapped with kept ones,
    which are older; in eval mode, and with size 0, it does nothing."""
    torch.manual_seed(0)
    buffer = ImageBuffer(4, 8)
    first = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    assert torch.equal(buffer(first), first) and int(buffer.count) == 4
    new = torch.arange(100.0, 500.0)[:, None, None, None].expand(400, 3, 8, 8)
    given = buffer(new)[:, 0, 0, 0]
    swapped = given != new[:, 0, 0, 0]
    assert 150 < int(swapped.sum()) < 250
    assert bool((given[swapped] < new[:, 0, 0, 0][swapped]).all())
    assert len(set(given.tolist()) | set(buffer.images[:, 0, 0, 0].tolist())) == 404  # nothing is lost or doubled
    before = buffer.images.clone()
    assert torch.equal(buffer.eval()(new), new) and torch.equal(buffer.images, before)
    buffer.empty()
    assert int(buffer.count) == 0
    assert torch.equal(ImageBuffer(0, 8)(new), new)


# -- composition


def force(method: Attend, logit: float) -> Attend:
    """A mask of sigmoid(logit) everywhere."""
    assert method.branch is not None
    with torch.no_grad():
        method.branch.head.weight.zero_()
        method.branch.head.bias.fill_(logit)
    method.attending.fill_(1)
    return method.eval()


@torch.no_grad()
def test_masks_of_0_and_1_in_the_whole_method() -> None:
    """A branch that says 0 gives back x; one that says 1 gives G0(x); before its stage the mask is 1 and the result
    G0(x)."""
    x = batch().source
    shut, open_ = force(small(), -100.0), force(small(), 100.0)
    assert torch.equal(shut.translate(x, *DOMAINS), x)
    assert torch.equal(open_.translate(x, *DOMAINS), open_.generator(x))
    fresh = small().eval()
    assert torch.equal(fresh.translate(x, *DOMAINS), fresh.generator(x))
    mask = fresh.attention(x)
    assert mask is not None and bool((mask == 1).all())


@torch.no_grad()
def test_outside_the_mask_8_bit_pixels_do_not_change() -> None:
    """For every grey level, every extreme of G0 and masks around the floor: where the 8-bit mask is 0, the 8-bit result
    is the input's pixel; at once above the floor the mask is not 0."""
    x = to_tensor(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3))
    below = float(np.nextafter(np.float32(MASK_FLOOR), np.float32(0)))
    for m in (0.0, 1e-9, 1e-4, 1 / 1024, below, MASK_FLOOR, 1 / 511, 1 / 510, 1 / 300):
        mask = torch.full((1, 1, 16, 16), m)
        written = mask_to_uint8(mask[0])
        assert (written == 0).all() == (m < MASK_FLOOR)
        for extreme in (-1.0, 1.0):
            result = Attend.compose(x, torch.full_like(x, extreme), mask)
            if m < MASK_FLOOR:
                assert np.array_equal(to_uint8(result), to_uint8(x))


# -- weight induction


def induction(**settings: Any) -> WeightInduction:
    """λ rises by 0.1 at most every 5 steps after 10."""
    usual = {"threshold": 1.5, "rise": 0.1, "every": 5, "warmup": 10, "patience": 3, "smoothing": 0.9, "largest": 1e9}
    return WeightInduction(**{**usual, "margin": None, **settings})


def follow(controller: WeightInduction, series: list[float]) -> list[float]:
    """λ after each value."""
    return [float(controller(torch.tensor(v))) for v in series]


def test_the_distance_of_images_wants_two() -> None:
    """Of a batch, or a part of it, of one image the unit would be 0 and λ without bound: that is refused."""
    with pytest.raises(ValueError, match="two images"):
        small(induction_unit="images", batch_size=1)
    method = small(induction_unit="images")
    found = batch(1)
    with pytest.raises(ConfigError, match=r"two images.*accumulate"):
        method.generator_loss(found, found.source, "initial")


def test_induction_counts_steps_and_not_parts_of_a_batch() -> None:
    """With accumulation λ rises no faster."""
    trainer = cases.trainer("attend", cases.config("attend", training={"accumulate": 2}))
    stage = trainer.state.plan.stages[0]
    cases.steps(trainer, stage, 3)
    assert int(trainer.method.initial_induction.seen) == 3  # type: ignore[union-attr,arg-type]


def test_induction_on_a_flat_series() -> None:
    """Nothing in the warm-up; then up by the rise every fifth step, to the bound and no further."""
    found = follow(induction(largest=0.5), [0.7] * 60)
    assert found[:14] == [0.0] * 14
    assert found[14] == pytest.approx(0.1) and found[18] == pytest.approx(0.1) and found[19] == pytest.approx(0.2)
    assert found[-1] == pytest.approx(0.5) and max(found) == found[-1]


def test_induction_on_a_rising_series() -> None:
    """λ rises, waits when the average passes the threshold, and stays for good, even when the loss falls again."""
    rising = [0.7 + 0.02 * i for i in range(100)]
    controller = induction()
    found = follow(controller, rising)
    assert 0.5 < found[-1] < 1.2 and int(controller.stopped) == 1
    assert follow(controller, [0.1] * 100) == [found[-1]] * 100


def test_induction_on_spikes() -> None:
    """Single spikes, however high for one step, make λ wait and do not stop it."""
    controller = induction()
    series = [0.7] * 300
    for at in (40, 120, 200):
        series[at] = 9.0
    found = follow(controller, series)
    assert int(controller.stopped) == 0
    assert 5.0 < found[-1] <= 5.8 + 1e-5


def test_induction_beside_a_strong_discriminator() -> None:
    """With a margin, a loss that was beyond the threshold before λ rose does not keep λ at 0; a further rise by the
    margin stops it. Without one, λ stays at 0, as the threshold alone says."""
    series = [3.0] * 60 + [3.0 + 0.02 * i for i in range(100)]
    plain, wise = induction(), induction(margin=0.5)
    assert set(follow(plain, series)) == {0.0}
    found = follow(wise, series)
    assert found[59] == pytest.approx(1.0) and 1.2 < found[-1] < 2.5 and int(wise.stopped) == 1
    assert float(wise.baseline) == pytest.approx(3.0)


def test_induction_counts_in_units_of_the_distance() -> None:
    """λ times the distance is the same for distances of any scale; what comes after the warm-up changes the unit no
    more."""
    for scale in (1e-3, 1.0, 1e4):
        controller = induction()
        for i in range(40):
            controller.measure(torch.tensor(scale * (1 + (i % 2) if i < 10 else 77)))
            weight = controller(torch.tensor(0.7))
        assert float(controller.unit) == pytest.approx(1.5 * scale, rel=1e-5)
        assert float(weight) * 1.5 * scale == pytest.approx(0.6, rel=1e-4)


def test_induction_is_frozen_in_eval_mode_and_saved() -> None:
    """In eval mode λ is as it was; all of its state is in the state dictionary."""
    a, b = induction(), induction()
    follow(a, [0.7] * 33)
    before = {k: v.clone() for k, v in a.state_dict().items()}
    follow(a.eval(), [9.0] * 50)
    assert all(torch.equal(v, before[k]) for k, v in a.state_dict().items())
    b.load_state_dict(before)
    assert follow(a.train(), [0.7, 2.0, 3.0] * 30) == follow(b, [0.7, 2.0, 3.0] * 30)


# -- losses


def test_terms_of_both_players() -> None:
    """Eq. 2 and 3 by hand: -log D(y) - log(1 - D(G(x))) and -log D(G(x)), means over patches; Eq. 1 with a constant
    λ."""
    method = small(reg_weight=3.0, history=0, norm="instance", discriminator_norm="none")
    b = batch()
    with torch.no_grad():
        output = method.generator(b.source)
        real, fake = (torch.sigmoid(method.discriminator(v)[0]) for v in (b.target, output))
    found = method.discriminator_loss(b, output), method.generator_loss(b, output, "initial")
    d, g = ({k: v.detach() for k, v in terms.items()} for terms in found)
    assert float(d["real"]) == pytest.approx(float(-real.log().mean()), rel=1e-4)
    assert float(d["fake"]) == pytest.approx(float(-(1 - fake).log().mean()), rel=1e-4)
    assert float(g["adversarial"]) == pytest.approx(float(-fake.log().mean()), rel=1e-4)
    assert float(g["regularisation"]) == pytest.approx(
        3 * float(method.distance(b.source, output.detach()).detach()), rel=1e-4
    )


def test_perceptual_distance_by_hand() -> None:
    """Eq. 4: 1/(H W) sum over positions of w_l ||F_l(x) - F_l(G(x))||^2, the mean over images; 0 for equal ones."""
    g = torch.Generator().manual_seed(0)
    x, y = ([torch.rand(2, c, s, s, generator=g) for c, s in ((3, 4), (5, 2))] for _ in range(2))
    expected = sum(
        w * float(((a - b) ** 2).sum()) / (2 * s * s) for a, b, w, s in zip(x, y, (0.5, 0.25), (4, 2), strict=True)
    )
    assert float(losses.feature_distance(x, y, (0.5, 0.25))) == pytest.approx(expected, rel=1e-5)
    assert float(losses.feature_distance(x, x, (0.5, 0.25))) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"gan": "minimax", "norm": "instance", "attention_network": "vgg19"},
        {"network": "mobilenet_v1", "layers": ["stride2", "stride4"]},
    ],
)
def test_options_train(settings: dict[str, Any]) -> None:
    """Every option takes a step in every stage: finite terms, gradients for the stage's players."""
    method = small(**settings)
    for stage in method.stages():
        assert stage.start is not None
        stage.start()
        for update in stage.updates:
            total = torch.stack(list(update.loss(*cases.arguments(stage, batch())).values())).sum()
            players = [p for m in update.modules for p in m.parameters()]
            gradients = torch.autograd.grad(total, players, allow_unused=True)
            assert torch.isfinite(total)
            assert any(g is not None and float(g.abs().sum()) > 0 for g in gradients)


# -- stages


def trained(tmp_path: Path, **model: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A tiny run and its log."""
    config = cases.config("attend", model=model)
    path = loop.fit(cases.method("attend", config), cases.pool("attend"), config, tmp_path / "run", quiet=True)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    return path, log


def test_rate_is_constant_for_half_of_a_stage_then_falls_to_zero() -> None:
    """The paper's 5,000 of 10,000 steps, in each of the first two stages; a lower rate in the third."""
    with torch.device("meta"):
        stages = Attend(AttendConfig(), DOMAINS, image_size=256).stages()
    adam = stages[0].updates[1].optimizer
    assert adam.schedule is not None and adam.lr == 2e-4 and stages[2].updates[1].optimizer.lr == 2e-5
    assert [adam.schedule(s, 10_000) for s in (0, 4999, 5000, 7500)] == [1, 1, 1, 0.5]
    assert 0 < adam.schedule(9999, 10_000) < 1e-3
    assert [s.steps for s in stages] == [10_000] * 3


def test_settings_that_do_not_go_together() -> None:
    """Wrong numbers of layer weights, unknown layers, a foreign source and sizes that do not fit are refused with what
    to do."""
    for settings, words in (
        ({"layers": ["relu1_1"]}, "3 numbers for 1 layers"),
        ({"attention_steps": 0}, "never trained"),
    ):
        with pytest.raises(ConfigError, match=words):
            run_from({"method": "attend", "model": settings})
    with pytest.raises(ConfigError, match="no layer 'relu9_9'"):
        small(network="vgg19", layers=["relu1_1", "relu9_9"])
    with pytest.raises(ConfigError, match="Did you mean 'zebra'"):
        small(source="zebr")
    with pytest.raises(ConfigError, match=r"data\.size = 18"):
        Attend(AttendConfig(weights="random", discriminator_layers=2), DOMAINS, image_size=18)


# -- pretrained weights


def test_pretrained_weights_are_loaded_once_and_recorded(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both networks start from the file's weights; file, hash and licence stand in every model; a resumed run and a
    loaded model need the file no more; the feature network is not in the model; it never moves, while the trunk
    learns."""
    monkeypatch.setenv("UNPAIRED_WEIGHTS", str(shared / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = cases.config(
        "attend", model={"weights": "pretrained"}, training={"ema": 0.5, "checkpoint_every": 1, "keep": 20}
    )
    pool, run = cases.pool("attend"), tmp_path / "run"

    def stop(step: int, _method: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    method = cases.method("attend", config)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(method, pool, config, run, on_step=stop, quiet=True)
    original = torch.load(shared / "weights/squeezenet_v1.1_features.pth", weights_only=True)["fire2.squeeze1x1.weight"]
    first, _ = checkpoint.load_method(checkpoint.folder_of(run / "checkpoints", 0) / checkpoint.MODEL)
    key = "branch.trunk.layers.fire2.squeeze.weight"
    assert torch.equal(first.state_dict()[key], original)  # the average too began with it
    monkeypatch.delenv("UNPAIRED_WEIGHTS")
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    path = loop.fit(cases.method("attend", config), pool, config, run, quiet=True)
    last, header = checkpoint.load_method(path)
    assert [p["name"] for p in header["pretrained"]] == ["squeezenet_v1.1_features"]
    assert len(header["pretrained"][0]["sha256"]) == 64 and header["pretrained"][0]["licence"]
    assert not any(k.startswith("features.") for k in last.state_dict())
    saved, _ = checkpoint.latest(run / "checkpoints")
    assert saved is not None
    state, _ = checkpoint.read_state(saved)
    assert torch.equal(state["method/features.layers.fire2.squeeze.weight"], original)
    assert not torch.equal(state[f"method/{key}"], original)


# -- masks


def attending() -> Translator:
    """A model whose mask is 0 in dark pictures' left half: made by hand from the branch's last layers."""
    method = force(small(), 0.0)

    class Left(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            ramp = torch.linspace(0, 1, images.shape[-1], device=images.device).expand(
                len(images), 1, *images.shape[-2:]
            )
            return torch.where(ramp < 0.5, ramp / 300, ramp)

    method.branch = Left()  # type: ignore[assignment]
    return Translator(method.eval(), {"method": "attend", "step": 1})


def test_masks_in_tensors() -> None:
    """[N, 1, H, W] in [0, 1] at any size, in tiles too; a threshold makes it 0 and 1; images and masks fit each
    other."""
    model = attending()
    x = to_tensor(tiny.pictures(2, 150))[:, :, :90]
    mask = model.attention(x)
    assert mask.shape == (2, 1, 90, 150) and float(mask.min()) >= 0 and float(mask.max()) <= 1
    assert set(model.attention(x, threshold=0.7).unique().tolist()) == {0.0, 1.0}
    result, same = model.translate_with_attention(x, "horse", "zebra")
    assert torch.equal(result, model.translate(x, "horse", "zebra")) and torch.equal(same, mask)
    for limit in (1024 * 1024, 64 * 64):
        for threshold in (None, 0.7):
            result, mask = model.translate_with_attention(x, None, "zebra", threshold=threshold, max_pixels=limit)
            written = np.stack([mask_to_uint8(m) for m in mask])
            unchanged = (to_uint8(result) == to_uint8(x)).all(axis=-1)
            assert (written == 0).mean() > 0.3 and unchanged[written == 0].all()
            assert not unchanged[written > 0].all()
    assert model.attention(x[:0]).shape == (0, 1, 90, 150)
    with pytest.raises(ConfigError, match="above 0"):
        model.attention(x, threshold=1.5)


def test_masks_in_files(tmp_path: Path) -> None:
    """--mask writes a grey PNG for each result, in the same tree; where it is 0 the result equals the input; a missing
    mask is made again; with a threshold they are black and white; folders that overlap and models without attention are
    refused."""
    model = attending()
    for i, place in enumerate(("a.png", "b/c.png")):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.pictures(1, 30, seed=i)[0]).save(tmp_path / "in" / place)

    def run(out: str, mask: str | None, **options: Any) -> dict[str, int]:
        place = None if mask is None else tmp_path / mask
        return translate_files(
            model, [tmp_path / "in"], to="zebra", out=tmp_path / out, mask=place, quiet=True, **options
        ).counts

    assert run("out", "mask")["ok"] == 2
    for place in ("a.png", "b/c.png"):
        before, after = (np.asarray(Image.open(tmp_path / d / place)) for d in ("in", "out"))
        picture = Image.open(tmp_path / "mask" / place)
        mask = np.asarray(picture)
        assert picture.mode == "L" and mask.shape == before.shape[:2] and 0 < (mask == 0).mean() < 1
        assert np.array_equal(before[mask == 0], after[mask == 0]) and not np.array_equal(before, after)
    (tmp_path / "mask/a.png").unlink()
    assert run("out", "mask") == {"ok": 1, "skipped": 1, "failed": 0} and (tmp_path / "mask/a.png").is_file()
    assert run("out2", "mask2", mask_threshold=0.8, format="webp")["ok"] == 2
    mask = np.asarray(Image.open(tmp_path / "mask2/b/c.png"))
    before, after = (np.asarray(Image.open(tmp_path / p)) for p in ("in/b/c.png", "out2/b/c.webp"))
    assert set(np.unique(mask)) == {0, 255} and np.array_equal(before[mask == 0], after[mask == 0])
    for out, mask_folder in (("out3", "out3"), ("out3", "out3/m"), ("out3", "in/m")):
        with pytest.raises(RefusedError, match="--mask"):
            run(out, mask_folder)
    with pytest.raises(ConfigError, match="--mask DIR"):
        run("out4", None, mask_threshold=0.5)
    with pytest.raises(RefusedError, match="made otherwise"):
        run("out", None)


def test_models_without_attention_say_so(tmp_path: Path) -> None:
    """A model trained without attention has no masks, and says which setting that was."""
    path, _ = trained(tmp_path, attention=False)
    model = load(path)
    assert not model.has_attention
    with pytest.raises(ConfigError, match=r"model\.attention = false"):
        model.attention(batch().source)


def test_sample_sheets_show_mask_and_g0(tmp_path: Path) -> None:
    """Sheets have input and output in the first stage; input, G0(x), mask and G(x) once the mask is in use."""
    trained(tmp_path)
    heights = [Image.open(p).height for p in sorted((tmp_path / "run/samples").glob("*.png"))]
    assert heights == [32, 64, 64, 64]  # steps 0, 6, 12, 13; 16 pixels a row
