"""Backbones, LPIPS and SSIM: against independent definitions; files with and without the right hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from theirs import torchvision
from unpaired import weights
from unpaired.errors import ConfigError, WeightsError
from unpaired.evaluation.features import (
    LPIPS,
    Backbone,
    backbone_from_state,
    figure_name,
    open_backbone,
    open_lpips,
    ssim,
)
from unpaired.files import sha256_of
from unpaired.networks import inception

IMAGES = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights on this machine, and no downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def fid_state() -> dict[str, Tensor]:
    """Tensors of the right shapes, as torch-fidelity's file has them (with its 1,008 classes)."""
    torch.manual_seed(0)
    state = inception.FIDInception().state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            state[key] = torch.rand_like(value) + 0.5
        elif key.endswith("running_mean"):
            state[key] = 0.1 * torch.randn_like(value)
    return state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}


def test_the_fid_network_is_torchvisions_with_three_differences(
    fid_state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights through torchvision's Inception v3, whose average pools leave padding out and whose ninth and
    last one is a
    maximum: the same 2,048 features to the last bits."""
    network = torchvision().models.Inception3(aux_logits=False, transform_input=False, init_weights=False).eval()
    network.fc = torch.nn.Identity()
    network.load_state_dict({k: v for k, v in fid_state.items() if not k.startswith("fc.")})
    pools = 0

    def pool(x: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
        nonlocal pools
        pools += 1
        if pools == 9:
            return F.max_pool2d(x, kernel_size, stride, padding)
        return original(x, kernel_size, stride, padding, count_include_pad=False)

    original = F.avg_pool2d
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        ours = inception.from_state(fid_state)(x)
        monkeypatch.setattr(F, "avg_pool2d", pool)
        reference = network(x)
    assert pools == 9 and ours.shape == (1, 2048) and float(ours.std()) > 0
    assert torch.allclose(ours, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 7), (299, 299), (320, 11)])
def test_the_resize_is_tensorflows(shape: tuple[int, int]) -> None:
    """Output pixel i lies at i · H / 299 of the input: the formula in loops, smaller, equal and larger pictures."""
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = inception.resize_tensorflow1(image)
    assert found.shape == (1, 1, 299, 299)
    for i, j in ((0, 0), (298, 298), (150, 3), (17, 298), (298, 0)):
        y, x = i * shape[0] / 299, j * shape[1] / 299
        top, left = int(y), int(x)
        below, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
        dy, dx = y - top, x - left
        p = image[0, 0]
        upper = p[top, left] * (1 - dx) + p[top, right] * dx
        lower = p[below, left] * (1 - dx) + p[below, right] * dx
        assert float(found[0, 0, i, j]) == pytest.approx(float(upper * (1 - dy) + lower * dy), abs=1e-4)
    if shape == (299, 299):
        assert torch.equal(found, image)


def test_only_the_fid_network_gives_a_figure_called_fid() -> None:
    """FID and KID for it, with its resize in the name where that is not the original's; FD- and KD- for all others."""
    assert figure_name("FD", "fid") == "FID" and figure_name("KD", "fid") == "KID"
    assert figure_name("FD", "fid-antialias") == "FID-antialias"
    assert figure_name("FD", "vgg19") == "FD-vgg19" and figure_name("KD", "alexnet") == "KD-alexnet"
    assert figure_name("precision", "fid") == "precision-fid"


@pytest.mark.usefixtures("_nowhere")
def test_a_missing_or_wrong_file_is_refused_by_name(
    fid_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the file its name, address and place are said; a file of that name with other bytes is refused by its
    hash; with the right hash (here: that of the file made for this test) it gives features, fp32 and bf16 apart."""
    name = "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(WeightsError, match=name) as missing:
        open_backbone("fid")
    assert "github.com/toshas/torch-fidelity" in str(missing.value) and "UNPAIRED_WEIGHTS" in str(missing.value)
    torch.save(fid_state, tmp_path / name)
    with pytest.raises(WeightsError, match=r"expected 6726825d.*damaged"):
        open_backbone("fid", tmp_path)
    known = replace(weights.CATALOGUE["fid-inception"], sha256=sha256_of(tmp_path / name))
    monkeypatch.setitem(weights.CATALOGUE, "fid-inception", known)
    original, antialiased = (open_backbone(n, tmp_path) for n in ("fid", "fid-antialias"))
    a, b = original(IMAGES[:1]), antialiased(IMAGES[:1])
    assert original.dim == 2048 and a.shape == (1, 2048) and original.sha256 == known.sha256
    assert "TensorFlow 1" in original.resize and "299×299" in original.resize and "torchmetrics" in antialiased.resize
    assert not torch.equal(a, b)
    with pytest.raises(WeightsError, match="no Inception v3"):
        backbone_from_state("fid", {"conv.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["mobilenet_v1", "squeezenet1_1"])
def test_a_backbone_of_random_weights(name: str) -> None:
    """Finite features whatever the size of the images, float32 also under bf16; the hash follows the weights; foreign
    tensors and unknown names are refused."""
    state = tiny.file_state(name)
    exact, fast = (backbone_from_state(name, state, precision=p) for p in ("fp32", "bf16"))
    a, b = exact(IMAGES), fast(IMAGES)
    assert isinstance(exact, Backbone) and exact.name == name and "224×224" in exact.resize
    assert a.shape == (2, exact.dim) and bool(torch.isfinite(a).all()) and a.dtype == b.dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 0.2 * float(a.abs().max())
    other = backbone_from_state(name, {k: v + 1 for k, v in state.items()})
    assert len(exact.sha256) == 64 and exact.sha256 != other.sha256
    with pytest.raises(WeightsError, match=f"do not fit {name}"):
        backbone_from_state(name, {})
    with pytest.raises(ConfigError, match=r"Did you mean 'mobilenet_v1'\?"):
        open_backbone("mobilenet")


def pair(side: int = 70) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, side, side - 4, generator=g) * 2 - 1
    return x, (x + 0.4 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_equals_torchmetrics(net: str, name: str) -> None:
    """The same (random) network under the official linear layers: equal to 1e-5; 0 for equal pictures; symmetric."""
    torchvision()
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    g = torch.Generator().manual_seed(1)
    state = {k: 0.05 * torch.randn(v.shape, generator=g) for k, v in tiny.file_state(name).items()}
    ours = LPIPS(net, state, weights.read(weights.find(f"lpips_{net}")))
    reference = theirs._LPIPS(pretrained=True, net=net, pnet_rand=True)
    reference.net.load_state_dict(dict(zip(reference.net.state_dict(), state.values(), strict=True)))
    x, y = pair()
    with torch.inference_mode():
        wanted = reference(x, y).flatten()
    assert torch.allclose(ours(x, y), wanted, rtol=1e-5) and float(wanted.min()) > 1e-3
    assert torch.equal(ours(x, x), torch.zeros(2)) and torch.allclose(ours(x, y), ours(y, x))
    assert ours(*pair(20)).shape == (2,)  # smaller pictures are enlarged first
    with pytest.raises(ConfigError, match="cannot be compared"):
        ours(x, y[:, :, 1:])
    with pytest.raises(WeightsError, match=f"no.*LPIPS over {net}|not those of LPIPS over {net}"):
        LPIPS(net, state, {})


@pytest.mark.usefixtures("_nowhere")
def test_the_files_of_lpips_are_checked_and_named(tmp_path: Path) -> None:
    """The linear layers come with torchmetrics, with the catalogue's hash; AlexNet's file is named when it is missing;
    wrong bytes and an unknown network are refused."""
    assert weights.find("lpips_vgg").name in ("vgg.pth", "v0.1_vgg.pth")
    with pytest.raises(WeightsError, match="alexnet-owt-7be5be79"):
        open_lpips("alex")
    (tmp_path / "v0.1_alex.pth").write_bytes(b"not its layers")
    with pytest.raises(WeightsError, match="expected df73285e"):
        open_lpips("alex", tmp_path)
    with pytest.raises(ConfigError, match="there are alex, vgg"):
        open_lpips("squeeze")


def test_ssim_is_its_formula() -> None:
    """One window of 11 × 11 by hand; inside the picture equal to torchmetrics' map; 1 for equal pictures; small ones
    work."""
    torchvision()
    theirs = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure

    x, y = pair(30)
    a, b = ((s.double() + 1) / 2 for s in (x, y))
    place = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-place.square() / 4.5)
    window = torch.outer(window, window) / window.sum() ** 2
    p, q = a[0, :, :11, :11], b[0, :, :11, :11]
    mp, mq = (window * p).sum((1, 2)), (window * q).sum((1, 2))
    vp, vq = (window * p * p).sum((1, 2)) - mp**2, (window * q * q).sum((1, 2)) - mq**2
    cov = (window * p * q).sum((1, 2)) - mp * mq
    by_hand = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
    assert float(ssim(x[:1, :, :11, :11], y[:1, :, :11, :11])) == pytest.approx(float(by_hand.mean()), rel=1e-10)
    _, full = theirs(a, b, data_range=1.0, return_full_image=True)
    assert torch.allclose(ssim(x, y), full[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3)), rtol=1e-6)
    assert torch.allclose(ssim(x, x), torch.ones(2, dtype=torch.float64))
    assert float(ssim(x[:, :, :5, :5], -x[:, :, :5, :5]).max()) < 0.5
