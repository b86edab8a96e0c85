"""Distances against formulas, closed forms and torchmetrics; backbones; degenerate input."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import SHARED
from unpaired.data.images import open_image, to_tensor
from unpaired.errors import ConfigError, NotComparableError, WeightsError
from unpaired.evaluation.distances import Statistics, _mmd2, frechet_distance, gaussian_distance, kernel_distance
from unpaired.evaluation.features import Backbone, backbone_from_state, open_backbone
from unpaired.networks import classifiers, efficientnet
from unpaired.weights import import_torchvision

WEIGHTS = SHARED / "weights" / "mobilenet_v1_1.0_to_conv12.pth"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="../shared/weights is not here")


def features(n: int, d: int, seed: int = 0) -> Tensor:
    """Correlated, not centred."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + torch.randn(d, generator=g)


def statistics(x: Tensor) -> Statistics:
    s = Statistics(x.shape[1])
    for part in x.split(7):
        s.update(part)
    return s


def test_streamed_statistics_equal_numpy() -> None:
    """Mean and covariance in pieces of 7 equal numpy's over the whole, also far from zero."""
    x = features(100, 6) + 1e4
    s, y = statistics(x), x.double().numpy()
    assert s.count == 100
    assert np.allclose(s.mean, y.mean(0), rtol=1e-14)
    assert np.allclose(s.covariance, np.cov(y.T), rtol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (20, 40)])
def test_frechet_equals_the_textbook_formula(n: int, d: int) -> None:
    """Equal to |μ₁-μ₂|² + tr(Σ₁+Σ₂-2 sqrtm(Σ₁Σ₂)) in float64, full rank and rank-deficient."""
    x, y = features(n, d).double(), features(n + 5, d, 1).double()
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    eigenvalues = np.linalg.eigvals(a @ b).astype(complex)
    reference = float(((x.mean(0) - y.mean(0)) ** 2).sum()) + np.trace(a + b) - 2 * np.sqrt(eigenvalues).real.sum()
    assert statistics(x).distance(statistics(y)) == pytest.approx(reference, rel=1e-6 if n < d else 1e-10)


def test_frechet_closed_forms() -> None:
    """Diagonal Gaussians: Σ(μ₁-μ₂)² + Σ(σ₁-σ₂)²; a set has distance 0 to itself; symmetric."""
    mu1, mu2 = torch.tensor([0.0, 1.0]), torch.tensor([3.0, -1.0])
    s1, s2 = torch.diag(torch.tensor([4.0, 9.0])), torch.diag(torch.tensor([1.0, 25.0]))
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(9 + 4 + 1 + 4)
    assert frechet_distance(mu2, s2, mu1, s1) == pytest.approx(18)
    x = statistics(features(50, 30))
    assert x.distance(x) < 1e-9 * float(x.covariance.trace())


def test_frechet_equals_torchmetrics() -> None:
    """Equal to torchmetrics' FrechetInceptionDistance over the same custom extractor to 1e-6 relative."""
    import_torchvision()
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Extractor(torch.nn.Module):
        num_features = 12

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x.double() / 255, 2).flatten(1)

    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (60, 3, 8, 8), generator=g, dtype=torch.uint8)
    fake = torch.randint(0, 200, (50, 3, 8, 8), generator=g, dtype=torch.uint8)
    theirs = FrechetInceptionDistance(feature=Extractor(), input_img_size=(3, 8, 8)).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = statistics(Extractor()(real)).distance(statistics(Extractor()(fake)))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert gaussian_distance(Extractor()(real), Extractor()(fake)) == pytest.approx(ours, rel=1e-9)


def test_kernel_distance_equals_the_double_sum() -> None:
    """The unbiased estimate written as loops over pairs i ≠ j."""
    x, y = features(6, 3).double(), features(6, 3, 1).double()

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(6) for j in range(6)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / 30
    reference = within - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 36
    found = kernel_distance(x, y)
    assert found.mean == pytest.approx(reference) and found.std is None and found.subsets == 1


def test_kernel_distance_equals_torchmetrics() -> None:
    """One subset equals torchmetrics' poly_mmd; whole sets equal its KernelInceptionDistance over the same extractor to 1e-6."""
    import_torchvision()
    from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

    x, y = features(40, 16).double(), features(40, 16, 1).double()
    assert _mmd2(x, y, 3) == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)

    class Extractor(torch.nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images.double() / 255, 2).flatten(1)

    g = torch.Generator().manual_seed(0)
    real, fake = (torch.randint(0, high, (30, 3, 8, 8), generator=g, dtype=torch.uint8) for high in (256, 200))
    theirs = KernelInceptionDistance(feature=Extractor(), subsets=1, subset_size=30).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = kernel_distance(Extractor()(fake), Extractor()(real)).mean
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_kernel_distance_is_unbiased_and_seeded() -> None:
    """For two samples of one distribution the mean over subsets is within its spread of zero; a seed repeats it."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 8, generator=g), torch.randn(400, 8, generator=g)
    found = kernel_distance(x, y, subsets=30, subset_size=100, seed=4)
    assert found.std is not None and abs(found.mean) < 2 * found.std
    assert kernel_distance(x, y, subsets=30, subset_size=100, seed=4) == found
    assert kernel_distance(x, y + 1, subsets=30, subset_size=100).mean > 10 * found.std


def test_subsets_of_more_than_half_of_a_set_have_no_deviation() -> None:
    """100 of 200 images a subset: a spread. 101 of them, or 100 of 101 on one side alone: none, as of the whole sets; the mean stays."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 8, generator=g), torch.randn(200, 8, generator=g)
    assert kernel_distance(x, y, subset_size=100).std is not None
    for found in (kernel_distance(x, y, subset_size=101), kernel_distance(x, y[:101], subset_size=100)):
        assert found.std is None and found.subsets == 100 and abs(found.mean) < 1


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_an_error_and_never_a_number(n: int) -> None:
    """No distance for 0 or 1 images."""
    few, many = features(5, 3)[:n], features(5, 3)
    with pytest.raises(NotComparableError, match="not comparable"):
        statistics(many).distance(statistics(few) if n else Statistics(3))
    with pytest.raises(NotComparableError, match="at least 2 images"):
        kernel_distance(few, many)


def test_nan_and_different_features_are_an_error_and_never_a_number() -> None:
    """NaN, infinity, and features of different widths."""
    x = features(5, 3)
    bad = x.clone()
    bad[2, 1] = float("nan")
    with pytest.raises(NotComparableError, match="NaN or infinity"):
        Statistics(3).update(bad)
    with pytest.raises(NotComparableError, match="NaN or infinity"):
        kernel_distance(x, bad / 0)
    with pytest.raises(NotComparableError, match="different backbones"):
        statistics(x).distance(statistics(features(5, 4)))
    with pytest.raises(NotComparableError, match="shapes"):
        kernel_distance(x, features(5, 4))


def test_mobilenet_has_five_taps_at_the_named_strides() -> None:
    """Each tap has ceil(side / stride) pixels and its channels, also for sides that no stride divides."""
    network = classifiers.MobileNetV1()
    with torch.inference_mode():
        for side in (64, 67):
            taps = network(torch.zeros(1, 3, side, side + 5))
            for name, tap in taps.items():
                stride = int(name.removeprefix("stride"))
                assert tap.shape == (1, classifiers.CHANNELS[name], -(-side // stride), -(-(side + 5) // stride))
    assert list(taps) == list(classifiers.CHANNELS)


def test_same_padding_puts_the_odd_pixel_right_and_below() -> None:
    """TensorFlow's rule: 224 at kernel 3 and stride 2 pads 0 before and 1 behind; 5 pads 1 and 1."""
    even, odd = torch.ones(1, 1, 224, 224), torch.ones(1, 1, 5, 5)
    assert efficientnet.same_padding(even, 3, 2) == (0, 1, 0, 1)
    assert efficientnet.same_padding(odd, 3, 2) == (1, 1, 1, 1)
    for images in (even, odd, torch.ones(1, 1, 5, 8)):  # whichever way it pads, the result is that of padding first
        layer = efficientnet.ConvBN(1, 2, 3, stride=2).eval()
        padded = torch.nn.functional.pad(images, efficientnet.same_padding(images, 3, 2))
        first = torch.nn.functional.conv2d(padded, layer.weight, stride=2)
        torch.testing.assert_close(layer.linear(images), layer.bn(first))


def test_foreign_tensors_are_no_mobilenet() -> None:
    """Missing or wrong tensors are a WeightsError."""
    with pytest.raises(WeightsError, match="no MobileNet"):
        classifiers.from_state({"conv0.weight": torch.zeros(1)})


def test_a_torchvision_backbone_runs_and_has_its_name() -> None:
    """SqueezeNet with random weights: 512 finite features, whatever the size of the images; its hash follows its weights."""
    models = import_torchvision().models
    state = models.squeezenet1_1(weights=None).state_dict()
    backbone = backbone_from_state("squeezenet1_1", state)
    assert isinstance(backbone, Backbone) and backbone.name == "squeezenet1_1" and "224×224" in backbone.resize
    out = backbone(torch.rand(2, 3, 40, 50) * 2 - 1)
    assert out.shape == (2, backbone.dim) and bool(torch.isfinite(out).all())
    other = backbone_from_state("squeezenet1_1", {k: v + 1 for k, v in state.items()})
    assert len(backbone.sha256) == 64 and backbone.sha256 != other.sha256
    with pytest.raises(WeightsError, match="no squeezenet1_1 of torchvision"):
        backbone_from_state("squeezenet1_1", {})


def test_unknown_backbone_names_the_nearest() -> None:
    """The text has the nearest name and all others."""
    with pytest.raises(ConfigError, match=r"Did you mean 'mobilenet_v1'\?"):
        open_backbone("mobilenet")


@needs_weights
def test_pretrained_features_tell_cats_from_dogs_better_than_random_ones(shared: Path) -> None:
    """A nearest-class-mean rule on 10 + 10 held-out faces is right clearly more often than with random weights."""
    if not (shared / "data" / "cat2dog.zip").is_file():
        pytest.skip("../shared/data/cat2dog.zip is not here")
    with zipfile.ZipFile(shared / "data" / "cat2dog.zip") as archive:
        pictures = []
        for part in ("testA", "testB"):
            names = sorted(n for n in archive.namelist() if f"{part}/" in n and n.lower().endswith((".jpg", ".png")))
            images = [open_image(archive.read(n)).resize((128, 128), Image.Resampling.BICUBIC) for n in names[:20]]
            pictures.append(to_tensor(np.stack([np.asarray(i) for i in images])))

    def accuracy(backbone: Backbone) -> float:
        cats, dogs = (backbone(x) for x in pictures)
        means = torch.stack([cats[:10].mean(0), dogs[:10].mean(0)])
        held = torch.cat([cats[10:], dogs[10:]])
        truth = torch.arange(2).repeat_interleave(10)
        return float((torch.cdist(held, means).argmin(1) == truth).float().mean())

    torch.manual_seed(0)
    pretrained, random = open_backbone("mobilenet_v1", WEIGHTS), classifiers.MobileNetV1().state_dict()
    good = accuracy(pretrained)
    chance = accuracy(backbone_from_state("mobilenet_v1", random))
    assert good >= 0.9 and good > chance + 0.1, (good, chance)
    assert pretrained.sha256.startswith("0e3b1584")
