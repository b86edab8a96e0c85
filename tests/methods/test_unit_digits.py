"""The digits networks: sizes, losses, class head, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from unpaired.batch import Batch
from unpaired.errors import ConfigError
from unpaired.methods.unit_digits import UNITDigits, UNITDigitsConfig

CLASSES = tuple("0123456789")


def build(side: int = 32, classes: tuple[str, ...] = CLASSES, **settings: Any) -> UNITDigits:
    """A small one, the same weights each time."""
    torch.manual_seed(0)
    config = UNITDigitsConfig(**{"width": 4, "discriminator_width": 4, **settings})
    return UNITDigits(config, ("house", "mail"), image_size=side, classes=classes)


def batch(side: int = 32, n: int = 6) -> Batch:
    """Random images; every second source image has a label."""
    torch.manual_seed(1)
    labels = torch.arange(n) % 10
    labels[1::2] = -1
    zero = torch.zeros(n, dtype=torch.long)
    return Batch(torch.rand(n, 3, side, side) * 2 - 1, zero, torch.rand(n, 3, side, side) * 2 - 1, zero + 1, labels)


def parameters(*modules: nn.Module | None) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for m in modules if m is not None for p in m.parameters())


@pytest.mark.parametrize(("width", "expected"), [(64, 10_053_380), (96, 22_606_468), (128, 40_177_156)])
def test_sizes_are_the_published_ones(width: int, expected: int) -> None:
    """g = 64, 96, 128 with RGB and grey have 10.05, 22.6 and 40.2 million parameters; the discriminator 4,332,812."""
    with torch.device("meta"):
        method = UNITDigits(UNITDigitsConfig(width=width, channels=(3, 1)), ("a", "b"), image_size=32, classes=CLASSES)
    assert parameters(method.encoder, method.decoder) == expected
    assert parameters(method.features, method.judge, method.class_head) == 4_332_812


@pytest.mark.parametrize("side", [16, 32, 48])
@pytest.mark.parametrize("channels", [(3, 1), (1, 3)])
def test_translates_and_classifies_at_its_size(side: int, channels: tuple[int, int]) -> None:
    """Images keep their shape and range in both directions, whatever the channels inside; grey domains come out
    grey."""
    method = build(side, channels=channels).eval()
    images = batch(side).source
    for source, target in method.directions:
        out = method.translate(images, source, target)
        assert out.shape == images.shape and out.abs().max() <= 1
        grey = channels[method.domains.index(target)] == 1
        assert torch.equal(out[:, 0], out[:, 2]) == grey
    assert method.classify(images, "mail").shape == (6, 10)


def test_only_first_and_last_layers_are_private() -> None:
    """A change of a shared layer changes both domains' output, a change of a private one only its own."""
    method = build().eval()
    images = batch().source

    def outputs() -> list[torch.Tensor]:
        return [method.translate(images, d, d) for d in method.domains] + [
            method.classify(images, d) for d in method.domains
        ]

    before = outputs()
    with torch.no_grad():
        method.encoder.private[0][0].weight += 1
        method.features.private[0].weight += 1
    assert [bool(torch.equal(a, b)) for a, b in zip(before, outputs(), strict=True)] == [False, True, False, True]
    with torch.no_grad():
        method.decoder.shared[0][0].weight += 1
        method.features.shared[0].weight += 1
    assert not any(torch.equal(a, b) for a, b in zip(before, outputs(), strict=True))


def test_loss_terms_follow_their_formulas() -> None:
    """With dropout and noise off, the generator's squared error and the KL term equal the formulas computed by hand."""
    method = build(dropout=(0, 0, 0, 0)).train()
    b = batch()
    torch.manual_seed(3)
    terms = method.generator_loss(b)
    torch.manual_seed(3)
    mu, sd = method.encoder([(0, b.source), (1, b.target)])
    first, second = method.decoder(mu + sd * torch.randn_like(sd))
    error = ((first[:6] - b.source) ** 2).sum() / 6 + ((second[6:] - b.target) ** 2).sum() / 6
    kl = 1e-4 * 2 * (mu**2 + sd**2 - torch.log(sd**2)).sum() / 12
    assert torch.allclose(terms["reconstruction"], 1e-3 * error, rtol=1e-4)
    assert torch.allclose(terms["kl"], kl, rtol=1e-4)


def test_images_without_label_do_not_teach_classes() -> None:
    """The class term is the mean over labelled images alone, and zero when none has a label."""
    method = build(dropout=(0, 0, 0, 0)).train()
    b = batch()
    term = method.discriminator_loss(b)["class"]
    known = b.source_label >= 0
    logits = method.classify(b.source[known], "house")
    assert torch.allclose(term, 10 * nn.functional.cross_entropy(logits, b.source_label[known]), rtol=1e-4)
    none = Batch(b.source, b.source_domain, b.target, b.target_domain, torch.full((6,), -1))
    assert method.discriminator_loss(none)["class"] == 0


def test_same_start_makes_domains_equal_at_first() -> None:
    """With same_start both domains translate and classify alike before training; without it they do not."""
    images = batch().source
    for same in (True, False):
        method = build(same_start=same, classes=CLASSES).eval()
        classified, back = method.classify(images, "house"), method.translate(images, "mail", "house")
        assert torch.equal(classified, method.classify(images, "mail")) == same
        assert torch.equal(back, method.translate(images, "house", "mail")) == same
    with pytest.raises(ConfigError, match=r"equal model\.channels"):
        build(same_start=True, channels=(3, 1))


def test_refusals_say_what_to_type() -> None:
    """A side that does not fit names the setting; a model without labels is refused."""
    with pytest.raises(ConfigError, match=r"data\.size is 28.*--set data\.size=32"):
        build(28)
    with pytest.raises(ConfigError, match="without labels"):
        build(classes=()).classify(batch().source, "house")
