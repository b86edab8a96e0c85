"""LPIPS against torchmetrics' with the same weights, its files and hashes; SSIM against its formula and torchmetrics."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unpaired import weights
from unpaired.errors import ConfigError, WeightsError
from unpaired.evaluation.features import _linear_file, lpips_from_state, open_lpips, ssim


def pair(side: int = 70) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, side, side - 4, generator=g) * 2 - 1
    return x, (x + 0.4 * torch.randn(x.shape, generator=g)).clamp(-1, 1)


@pytest.mark.parametrize(("net", "name"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_equals_torchmetrics(net: str, name: str) -> None:
    """The same (random) network under the official linear layers: equal to 1e-5; 0 for equal pictures; symmetric."""
    models = weights.import_torchvision().models
    from torchmetrics.functional.image import lpips as theirs

    with torch.device("meta"):
        empty = getattr(models, name)(weights=None).features.state_dict()
    g = torch.Generator().manual_seed(1)
    state = {f"features.{k}": 0.05 * torch.randn(v.shape, generator=g) for k, v in empty.items()}
    ours = lpips_from_state(net, state, weights.read(_linear_file(net, None)))
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


def test_its_files_are_checked_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear layers come with torchmetrics, with the catalogue's hash; AlexNet's file is named when it is missing; wrong bytes
    and an unknown network are refused."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)
    assert _linear_file("vgg", None).name in ("vgg.pth", "v0.1_vgg.pth")
    with pytest.raises(WeightsError, match="alexnet-owt-7be5be79"):
        open_lpips("alex")
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"not AlexNet")
    with pytest.raises(WeightsError, match="expected 7be5be79"):
        open_lpips("alex", tmp_path)
    with pytest.raises(ConfigError, match="there are alex, vgg"):
        open_lpips("squeeze")
    with pytest.raises(WeightsError, match="no LPIPS over alex"):
        lpips_from_state("alex", {}, {})


def test_ssim_is_its_formula() -> None:
    """One window of 11 × 11 by hand; inside the picture equal to torchmetrics' map; 1 for equal pictures; small ones work."""
    weights.import_torchvision()
    from torchmetrics.functional.image import structural_similarity_index_measure as theirs

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
