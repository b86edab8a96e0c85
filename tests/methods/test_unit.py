"""UNIT: sizes of the networks, what is shared, every loss term, ablations, settings, presets."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unpaired.batch import Batch
from unpaired.errors import ConfigError
from unpaired.methods import run_from
from unpaired.methods.unit import UNIT
from unpaired.networks.convnets import SampleNorm
from unpaired.networks.discriminators import GaussianHalf

DOMAINS = ("cat", "tiger")


def small(**settings: Any) -> UNIT:
    """A narrow network in train mode."""
    torch.manual_seed(0)
    narrow = {"width": 4, "discriminator_width": 4, "discriminator_layers": 3}
    return UNIT(UNIT.Config(**{**narrow, **settings}), DOMAINS, image_size=16).train()


def batch(n: int = 2, side: int = 16) -> Batch:
    """Noise images of both domains."""
    g = torch.Generator().manual_seed(1)
    x, y = (torch.rand(n, 3, side, side, generator=g) * 2 - 1 for _ in range(2))
    return Batch(x, torch.zeros(n, dtype=torch.long), y, torch.ones(n, dtype=torch.long))


def count(*modules: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for m in modules for p in m.parameters())


@functools.cache
def wide(**settings: Any) -> UNIT:
    """A network of the published width, without memory."""
    with torch.device("meta"):
        return UNIT(UNIT.Config(**settings), DOMAINS, image_size=256)


# -- networks


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_translator_sizes(norm: str) -> None:
    """Both networks of the paper's branch have the official numbers of parameters."""
    unit = wide(norm=norm)
    assert count(*unit.translators) == 18_017_286
    assert count(unit.encoders[0]) == count(unit.encoders[1]) == 3_918_976
    assert count(unit.encoder_shared) == count(unit.generator_shared) == 1_180_160
    assert count(unit.generators[0]) == 3_909_507


def test_discriminator_sizes() -> None:
    """Discriminators of 3 to 6 layers, shared and multi-scale ones, and both of the MUNIT code base have the official
    sizes."""
    sizes = {n: count(wide(discriminator_layers=n).discriminators) for n in (3, 4, 5, 6)}
    assert {n: f"{s / 1e6:.2f}" for n, s in sizes.items()} == {3: "0.74", 4: "3.10", 5: "12.54", 6: "50.30"}
    assert count(wide(discriminator="shared", discriminator_layers=6).discriminators) == 25_240_065
    multiscale = wide(discriminator="multiscale", discriminator_layers=4).discriminators
    assert count(multiscale) == 3 * sizes[4]
    munit = wide(architecture="munit")
    assert count(munit.encoders[0], munit.generators[0]) == 11_140_483
    assert count(munit.encoders[0]) == 5_385_856
    assert count(munit.discriminators) == 2 * 8_271_171
    assert count(*munit.translators) == 2 * 11_140_483


def test_sample_norm() -> None:
    """The layer norm of the MUNIT code base divides by the unbiased deviation plus eps."""
    x = torch.randn(2, 3, 4, 5)
    norm = SampleNorm(3)
    expected = (x - x.mean((1, 2, 3), keepdim=True)) / (x.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
    expected = expected * norm.gamma.view(1, 3, 1, 1) + norm.beta.view(1, 3, 1, 1)
    assert torch.allclose(norm(x), expected, atol=1e-6)


def test_gaussian_halving_keeps_the_whole_image() -> None:
    """Halving blurs with (1 2 1)/4 in both directions and keeps every second pixel of both axes, edges included."""
    x = torch.arange(30.0).view(1, 1, 5, 6).repeat(1, 3, 1, 1)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    blurred = sum(row[i] * row[j] * padded[..., i : i + 5, j : j + 6] for i in range(3) for j in range(3))
    assert torch.allclose(GaussianHalf()(x), blurred[..., ::2, ::2], atol=1e-6)


def test_initialisation() -> None:
    """The paper's branch draws convolution weights from N(0, 0.02); the MUNIT code base Kaiming's, with zero biases."""
    unit = small(width=16)
    assert unit.encoder_shared[0].body[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert unit.encoders[0][1][0].bias.abs().max() > 0
    munit = small(architecture="munit", width=16)
    weight = munit.encoders[0][3].body[0].weight
    assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05)
    assert munit.encoders[0][1][0].bias.abs().max() == 0
    assert munit.discriminators.of_domain[0].scales[0].head.bias.abs().max() == 0


# -- sharing


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_shared_layers_are_shared(layers: int) -> None:
    """A step on domain a's reconstruction alone changes what domain b's encoder gives, and each weight is registered
    once."""
    unit = small(shared_layers=layers)
    data = batch()
    before = unit.encode(data.target, "tiger").detach().clone()
    F.l1_loss(unit.reconstruct(data.source, "cat"), data.source).backward()
    moved = [p for m in unit.translators for p in m.parameters() if p.grad is not None]
    with torch.no_grad():
        for p in moved:
            p -= 0.1 * p.grad  # type: ignore[operator]
    assert not torch.equal(unit.encode(data.target, "tiger"), before)
    tensors = [p.data_ptr() for p in unit.state_dict().values()]
    assert len(set(tensors)) == len(tensors)
    assert len(unit.encoder_shared) == len(unit.generator_shared) == layers
    assert count(*unit.translators) == count(*small(shared_layers=0).translators) - 2 * count(unit.encoder_shared)


# -- losses


def by_hand(unit: UNIT, data: Batch, noise: list[Tensor]) -> dict[str, Tensor]:
    """All terms of Eq. 3 to 8 one image and one domain at a time, straight from the formulas; ``noise`` as training
    drew it."""
    c = unit.config
    (a, b), n = unit.domains, len(data)
    eta = [noise[0][:n], noise[0][n:], noise[1][:n], noise[1][n:]]
    mu_a, mu_b = unit.encode(data.source, a), unit.encode(data.target, b)
    z_a, z_b = mu_a + eta[0], mu_b + eta[1]
    x_ab, x_ba = unit.decode(z_a, b), unit.decode(z_b, a)
    mu_ba, mu_ab = unit.encode(x_ba, a), unit.encode(x_ab, b)
    z_ba, z_ab = mu_ba + eta[2], mu_ab + eta[3]

    def kl(mu: Tensor, z: Tensor) -> Tensor:
        return mu.square().mean() / 2 if c.kl == "formula" else z.square().mean()

    direct, twice = kl(mu_a, z_a) + kl(mu_b, z_b), kl(mu_ba, z_ba) + kl(mu_ab, z_ab)
    zeros = torch.zeros_like(data.source)
    logits = [*unit.discriminators([x_ba, zeros])[0], *unit.discriminators([zeros, x_ab])[1]]
    return {
        "reconstruction": c.reconstruction_weight
        * (F.l1_loss(unit.decode(z_a, a), data.source) + F.l1_loss(unit.decode(z_b, b), data.target)),
        "kl": c.kl_weight * direct,
        "gan": c.gan_weight * sum(F.binary_cross_entropy_with_logits(x, torch.ones_like(x)) for x in logits),
        "cycle": c.cycle_weight
        * (F.l1_loss(unit.decode(z_ab, a), data.source) + F.l1_loss(unit.decode(z_ba, b), data.target)),
        "cycle_kl": c.cycle_kl_weight * (twice + direct if c.kl == "formula" else twice),
    }


def recorded(unit: UNIT, data: Batch, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The generator's terms, and the noise that was drawn for them."""
    drawn: list[Tensor] = []

    randn = torch.randn

    def draw(*shape: Any, **options: Any) -> Tensor:
        drawn.append(randn(*shape, **options))
        return drawn[-1]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", draw)
        return unit.generator_loss(data, unit.forth(data)), drawn


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kl": "released", "norm": "instance"},
        {"discriminator": "shared", "discriminator_layers": 4, "shared_layers": 3},
        {"discriminator": "multiscale", "discriminator_layers": 2, "shared_layers": 0},
    ],
)
def test_terms_equal_the_formulas(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every term of the generator equals Eq. 3 to 8 computed one image at a time, and so do its gradients."""
    unit, data = small(**settings), batch()
    terms, drawn = recorded(unit, data, monkeypatch)
    expected = by_hand(unit, data, drawn)
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert torch.allclose(terms[name], value, rtol=1e-4, atol=1e-6), name
    weights = [p for m in unit.translators for p in m.parameters()]
    found = torch.autograd.grad(sum(terms.values()), weights)
    wanted = torch.autograd.grad(sum(expected.values()), weights)
    # Biases before an instance norm have a gradient of rounding errors only, hence the absolute bound.
    assert all(torch.allclose(f, w, rtol=1e-3, atol=1e-3) for f, w in zip(found, wanted, strict=True))


def test_discriminator_terms() -> None:
    """Real and translated images cost the weighted cross-entropy; 20 log 2 each where a discriminator knows nothing."""
    unit = small()
    for judge in unit.discriminators.of_domain:
        nn.init.zeros_(judge.head.weight)
        nn.init.zeros_(judge.head.bias)
    terms = unit.discriminator_loss(batch(), unit.forth(batch()))
    assert terms["real"].item() == pytest.approx(20 * 0.693147, rel=1e-5)
    assert terms["fake"].item() == pytest.approx(20 * 0.693147, rel=1e-5)
    assert unit.monitor["discriminator/sign_accuracy"].item() == 0.0  # a logit of exactly 0 is on neither side
    for judge in unit.discriminators.of_domain:
        nn.init.constant_(judge.head.bias, 1.0)
    assert unit.discriminator_loss(batch(), unit.forth(batch()))["real"].item() == pytest.approx(
        20 * 0.313262, rel=1e-5
    )
    assert unit.monitor["discriminator/sign_accuracy"].item() == 0.5


# -- ablations


def test_ablations() -> None:
    """cycle_weight = 0 drops both cycle terms; the reconstruction stream and others drop alike, and are not
    computed."""
    no_cycle = small(cycle_weight=0)
    assert set(no_cycle.generator_loss(batch(), no_cycle.forth(batch()))) == {"reconstruction", "kl", "gan"}
    unit = small(shared_layers=0, reconstruction_weight=0, kl_weight=0, cycle_kl_weight=0, noise="none")
    made = unit.forth(batch())
    assert made.x_aa is None and set(unit.generator_loss(batch(), made)) == {"gan", "cycle"}


def test_noise() -> None:
    """Training is noisy where asked for, translation never is."""
    data = batch()
    loud, quiet = small(), small(noise="none")
    assert not torch.equal(loud.forth(data).z, loud.forth(data).z)
    assert torch.equal(quiet.forth(data).z, quiet.forth(data).mu)
    assert torch.equal(loud.translate(data.source, *DOMAINS), loud.translate(data.source, *DOMAINS))


# -- contract


def test_unknown_and_wrong_domains() -> None:
    """A domain that the model does not know is named; a third domain is refused."""
    with pytest.raises(ConfigError, match=r"unknown domain 'lion'\. There are: cat, tiger\."):
        small().translate(batch().source, "cat", "lion")
    with pytest.raises(ConfigError, match="between 2 domains, 3 given: a, b, c"):
        UNIT(UNIT.Config(width=4), ("a", "b", "c"), image_size=16)


def test_learning_rate_is_halved() -> None:
    """The paper keeps the rate; the MUNIT code base halves it every 100,000 steps."""
    assert small().stages()[0].updates[0].optimizer.schedule is None
    schedule = small(architecture="munit", scales=1).stages()[0].updates[1].optimizer.schedule
    assert schedule is not None
    assert [schedule(s, 10**6) for s in (0, 99_999, 100_000, 250_000)] == [1, 1, 0.5, 0.25]


def test_defaults_of_the_architectures() -> None:
    """The defaults are the paper's weights; munit fills in its own, and what is given by hand stays."""
    paper, munit = UNIT.Config(), UNIT.Config(architecture="munit")
    names = ("gan_weight", "kl_weight", "reconstruction_weight", "cycle_kl_weight", "cycle_weight")
    assert [getattr(paper, n) for n in names] == [10, 0.1, 100, 0.1, 100]
    assert [getattr(munit, n) for n in names] == [1, 0.01, 10, 0.01, 10]
    assert (munit.gan, munit.discriminator, munit.shared_layers, munit.norm) == ("lsgan", "multiscale", 0, "instance")
    assert UNIT.Config(architecture="munit", cycle_weight=3).cycle_weight == 3
    assert UNIT.Config(**munit.model_dump()) == munit


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shared_layers": 5}, "shared_layers = 5 is more than residual_blocks = 4"),
        ({"architecture": "munit", "shared_layers": 1}, 'architecture = "munit" needs shared_layers = 0'),
        ({"architecture": "munit", "discriminator": "shared"}, "has no shared discriminator"),
        ({"discriminator": "shared", "discriminator_layers": 2}, "leaves nothing to share"),
        ({"gan": "wgan"}, "nonsaturating"),
        ({"shared_layer": 1}, "Did you mean 'model.shared_layers'"),
    ],
)
def test_bad_settings_are_explained(settings: dict[str, Any], text: str) -> None:
    """Settings that contradict each other or are unknown are refused in words."""
    with pytest.raises(ConfigError, match=text):
        run_from({"method": "unit", "model": settings})
