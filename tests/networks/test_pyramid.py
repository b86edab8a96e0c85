"""Feature pyramids: levels, statistics, clamp, taps, rounding; and the networks on maps with the paper's counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import tiny
from unpaired.errors import ConfigError
from unpaired.networks import pyramid as fm
from unpaired.networks.classifiers import Features
from unpaired.networks.discriminators import StridedPatches
from unpaired.networks.pyramid import BLOCK, Moments, Pyramid

ALL = (5, 4, 3, 2, 1)
X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def millions(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


def shapes(network: str, side: int) -> Pyramid:
    """A pyramid without contents: only its channels and sides count."""
    with torch.device("meta"):
        return Pyramid(network, ALL, 2, side)


@pytest.mark.parametrize(
    ("network", "side", "channels", "sides"),
    [
        ("vgg19", 224, (512, 512, 256, 128, 64), (14, 28, 56, 112, 224)),
        ("vgg19", 112, (512, 512, 256, 128, 64), (7, 14, 28, 56, 112)),
        ("vgg19", 128, (512, 512, 256, 128, 64), (8, 16, 32, 64, 128)),
        ("vgg19", 256, (512, 512, 256, 128, 64), (16, 32, 64, 128, 256)),
        ("mobilenet_v1", 128, (1024, 512, 256, 128, 64), (4, 8, 16, 32, 64)),
        ("mobilenet_v1", 112, (1024, 512, 256, 128, 64), (4, 7, 14, 28, 56)),
        ("alexnet", 224, (256, 256, 384, 192, 64), (13, 13, 13, 27, 55)),
    ],
)
def test_every_network_fits_every_pyramid(
    network: str, side: int, channels: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    """Channels and sides come from the network itself, and translators, critics, inversion and VAE built from them give
    maps of the right shape at every level, also where a side is odd or two levels have the same."""
    p = shapes(network, side)
    assert tuple(p.channels[level] for level in ALL) == channels
    assert tuple(p.sides[level] for level in ALL) == sides
    with torch.device("meta"):
        maps = {level: torch.zeros(2, p.channels[level], p.sides[level], p.sides[level]) for level in ALL}
        assert fm.DeepTranslator(p.channels[5])(maps[5]).shape == maps[5].shape
        for deeper, level in itertools.pairwise(ALL):
            trunk = fm.ContentTrunk(p.channels[deeper], p.channels[level], p.sides[deeper], p.sides[level], 0.25)
            style = fm.StyleFromMap(p.channels[level], p.sides[level], trunk.widths, 0.25)
            assert fm.Conditional(trunk, style)(maps[level], maps[deeper]).shape == maps[level].shape
        for level in ALL:
            assert fm.Critic(p.channels[level], p.sides[level], 0.25)(maps[level])[0].shape == (2, 1)
            assert fm.Inverter(p.channels[level], p.sides[level], side, 0.25)(maps[level]).shape == (2, 3, side, side)
        mean, log_variance = fm.MapEncoder(p.channels[5], p.sides[5], 7, 0.25)(maps[5])
        assert mean.shape == log_variance.shape == (2, 7)
        assert fm.MapDecoder(p.channels[5], p.sides[5], 7, 0.25)(mean).shape == maps[5].shape


def test_counts_of_the_paper_on_vgg19_at_224() -> None:
    """Parameters of all networks, numbers that AdaIN takes (3072, 2560, 1280, 640), its encoder's convolutions (one
    more for each shallower level) and transposed convolutions of the inversion (4, 3, 2, 1, 0), as the tables give
    them."""
    p = shapes("vgg19", 224)
    c, s = p.channels, p.sides
    with torch.device("meta"):
        assert millions(p) == pytest.approx(12.94, abs=0.01)
        assert millions(fm.DeepTranslator(c[5])) == pytest.approx(10.03, abs=0.005)
        for level, count, total, style_part, convolutions in (
            (4, 3072, 29.6, 18.35, 3),
            (3, 2560, 26.4, 19.0, 4),
            (2, 1280, 19.9, 18.0, 5),
            (1, 640, 17.9, 17.5, 6),
        ):
            trunk = fm.ContentTrunk(c[level + 1], c[level], s[level + 1], s[level])
            style = fm.StyleFromMap(c[level], s[level], trunk.widths)
            assert trunk.style_size == count
            assert millions(fm.Conditional(trunk, style)) == pytest.approx(total, abs=0.05)
            assert millions(style) == pytest.approx(style_part, abs=0.05)
            assert sum(isinstance(m, nn.Conv2d) for m in style.convolutions) == convolutions
        for level, ups, inverter, critic in (
            (5, 4, 9.87, 7.1),
            (4, 3, 9.83, 9.45),
            (3, 2, 2.43, 8.86),
            (2, 1, 0.58, 8.7),
            (1, 0, 0.11, 8.67),
        ):
            network = fm.Inverter(c[level], s[level], 224)
            assert sum(isinstance(m, nn.ConvTranspose2d) for m in network.modules()) == ups
            assert millions(network) == pytest.approx(inverter, abs=0.005)
            assert millions(fm.Critic(c[level], s[level])) == pytest.approx(critic, abs=0.05)
        assert millions(StridedPatches()) == pytest.approx(2.77, abs=0.005)
        assert StridedPatches()(torch.zeros(1, 3, 224, 224))[0].shape == (1, 1, 13, 13)
        assert millions(fm.MapEncoder(512, 14, 512)) == pytest.approx(37.5, abs=0.05)
        assert millions(fm.MapDecoder(512, 14, 512)) == pytest.approx(24.7, abs=0.05)


def test_streamed_statistics_equal_direct_ones() -> None:
    """In blocks of any size, in float64, also where the mean is far larger than the deviation; a constant channel
    counts as 1."""
    x = (
        torch.randn(7, 3, 5, 4, generator=torch.Generator().manual_seed(1))
        + torch.tensor([0.0, 1e4, 3.0])[:, None, None]
    )
    x[:, 2] = 3.0
    moments = Moments(3)
    for block in (x[:2], x[2:3], x[3:]):
        moments.add(block)
    values = x.double().transpose(0, 1).flatten(1)
    assert torch.allclose(moments.mean, values.mean(1), rtol=1e-12)
    assert torch.allclose(moments.std[:2], values.std(1, correction=0)[:2], rtol=1e-9)
    assert float(moments.std[2]) == 1.0


def examples(domain: str, count: int, first: int = 0) -> Tensor:
    """40 images of a domain, by number."""
    images = torch.from_numpy(tiny.pictures(40, 32, seed=len(domain))).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images[first : first + count]


def test_each_domain_has_statistics_of_its_own_over_all_images() -> None:
    """Every image counts, whatever the block; before the clamp each channel of a domain then has mean 0 and deviation
    1."""
    torch.manual_seed(0)
    p = Pyramid("tiny", (5, 3), 2, 32).eval()
    p.take_statistics(("red", "other"), examples)
    assert BLOCK < 40
    for number, domain in enumerate(("red", "other")):
        raw = p.raw(examples(domain, 40), (3,))[0].double().transpose(0, 1).flatten(1)
        assert torch.allclose(p.get_buffer("mean3")[number].double(), raw.mean(1), atol=1e-6)
        assert torch.allclose(p.get_buffer("std3")[number].double(), raw.std(1, correction=0), rtol=1e-5)
    assert not torch.equal(p.get_buffer("mean3")[0], p.get_buffer("mean3")[1])
    assert float(p(X, 0)[3].abs().max()) <= 1


def test_taking_statistics_leaves_the_classifier_as_it_is() -> None:
    """A pyramid begins in training mode like any module, its classifier never: batch norms use and keep their own
    statistics, so the levels that are measured are the levels that are used."""
    torch.manual_seed(0)
    p = Pyramid("mobilenet_v1", (5, 4), 1, 64)
    assert p.train().training and not any(m.training for m in p.features.modules())
    before = {name: value.clone() for name, value in p.features.state_dict().items()}
    images = torch.from_numpy(tiny.pictures(20, 64)).permute(0, 3, 1, 2).float() / 127.5 - 1
    p.take_statistics(("red",), lambda _domain, count, first=0: images[first : first + count])
    p(images, 0)
    assert all(torch.equal(before[name], value) for name, value in p.features.state_dict().items())
    for level, raw in zip((5, 4), p.eval().raw(images, (5, 4)), strict=True):
        values = raw.double().transpose(0, 1).flatten(1)
        assert torch.allclose(p.get_buffer(f"mean{level}")[0].double(), values.mean(1), atol=1e-5)


def test_maps_are_clamped_and_clamping_twice_changes_nothing() -> None:
    """All values in [-1, 1] in float32, the ends reached."""
    torch.manual_seed(0)
    p = Pyramid("tiny", ALL, 1, 32).eval()
    p.take_statistics(("red",), examples)
    for x in p(X, 0).values():
        assert x.dtype == torch.float32 and float(x.min()) == -1.0 and float(x.max()) == 1.0
        assert torch.equal(x, x.clamp(-1, 1))


@pytest.mark.parametrize("network", ["tiny", "mobilenet_v1", "alexnet"])
def test_a_tap_before_a_relu_survives_the_rest_of_the_pass(network: str) -> None:
    """The level before its ReLU has negative values, equals what a pass that ends there gives, and its ReLU is the
    level after."""
    torch.manual_seed(0)
    images = X if network != "alexnet" else nn.functional.interpolate(X, size=80)
    p = Pyramid(network, (5, 3, 2), 1, images.shape[-1]).eval()
    before, deep = p.raw(images, (2, 5))
    alone = Features(network, (p.layer[2],)).eval()
    alone.load_state_dict({k: v for k, v in p.features.state_dict().items() if k in alone.state_dict()})
    assert float(before.detach().min()) < 0
    assert torch.equal(before, alone(images)[0])
    after = p.activations(images)
    relu = nn.functional.relu6 if network == "mobilenet_v1" else torch.relu
    assert torch.equal(relu(before), after[1]) and torch.equal(relu(deep), after[4])
    assert len(after) == 5


def test_unknown_pyramids_and_tiny_images_are_refused() -> None:
    """With the nearest name, and with the size."""
    with pytest.raises(ConfigError, match="Did you mean 'vgg19'"):
        Pyramid("vgg18", ALL, 1, 224)
    with pytest.raises(ConfigError, match="no feature pyramid of 'squeezenet1_1'"):
        Pyramid("squeezenet1_1", ALL, 1, 224)
    with pytest.raises(ConfigError, match="size = 16 is too small"):
        Pyramid("alexnet", ALL, 1, 16)


def test_adaptive_norm_gives_each_sample_its_own_mean_and_deviation() -> None:
    """Channel c of sample n has mean beta[n, c] and standard deviation gamma[n, c], whatever it had before."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * 5 + 7
    style = torch.tensor([[0.0, 1.0, 2.0, 1.0, 0.5, 3.0], [-1.0, 0.0, 4.0, 2.0, 1.0, 0.1]])
    out = fm.adaptive_norm(x, style)
    assert torch.allclose(out.mean(dim=(2, 3)), style[:, :3], atol=1e-5)
    assert torch.allclose(out.std(dim=(2, 3), correction=0), style[:, 3:], rtol=1e-4)


def test_styles_start_near_plain_normalisation() -> None:
    """Without a hidden layer's contribution, beta is 0 and gamma 1 in the slices that the trunk cuts for its three
    layers."""
    trunk = fm.ContentTrunk(6, 4, 2, 4, 1.0)
    head = fm.StyleFromNoise(3, trunk.widths)
    with torch.no_grad():
        head.head[2].weight.zero_()  # type: ignore[union-attr, operator]
    style = head(torch.randn(1, 3))[0]
    assert len(style) == trunk.style_size
    for part, width in zip(torch.split(style, [2 * w for w in trunk.widths]), trunk.widths, strict=True):
        assert torch.equal(part, torch.cat([torch.zeros(width), torch.ones(width)]))
