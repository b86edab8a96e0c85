"""The projected discriminator: what it judges, what of it is trained, and class projection."""

from __future__ import annotations

import pytest
import torch

import tiny  # noqa: F401  # its small feature network
from unpaired import losses
from unpaired.errors import ConfigError
from unpaired.networks.classifiers import Features
from unpaired.networks.projected import ProjectedDiscriminator

TAPS = ("relu2", "relu3")
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _discriminator(**options: float) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(Features("tiny", TAPS), width=8, **options)  # type: ignore[arg-type]


def test_one_map_of_logits_a_tap_and_one_of_patches() -> None:
    """At the taps' own strides, 2 and 4; the PatchGAN's come last."""
    assert [x.shape for x in _discriminator()(IMAGES)] == [(3, 1, 16, 16), (3, 1, 8, 8)]
    with_patches = _discriminator(patch_weight=0.5)(IMAGES)
    assert len(with_patches) == 3 and with_patches[2].shape[:2] == (3, 1)


def test_the_heads_alone_are_trained() -> None:
    """The features get no gradient and stay in eval mode whatever is called; the images get one."""
    judge = _discriminator(players=2, patch_weight=0.5).train()
    assert judge.heads.training and not judge.features.training
    images = IMAGES.clone().requires_grad_()
    losses.fooling(judge(images, 1), "hinge").backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0
    having = {name.rsplit(".", 2)[0].split(".")[0:2][0] for name, p in judge.named_parameters() if p.grad is not None}
    assert having == {"heads", "patches"}
    assert all(p.grad is None for p in judge.heads[0].parameters())  # the other player's
    trained = {id(p) for module in judge.trained for p in module.parameters()}
    assert trained == {id(p) for p in judge.parameters()} - {id(p) for p in judge.features.parameters()}


def test_class_projection() -> None:
    """Logits differ by class alone where the images are the same, and a class is asked for."""
    judge = _discriminator(classes=4).eval()
    same = IMAGES[:1].expand(3, -1, -1, -1)
    one, two, again = judge(same, 0, torch.tensor([0, 1, 0]))[0]
    assert torch.equal(one, again) and not torch.allclose(one, two)
    with pytest.raises(ValueError, match="labels"):
        judge(IMAGES)


def test_maps_are_judged_at_unit_spread_and_magnified() -> None:
    """A classifier's maps have the spread of its training; what is measured makes it 1. Magnified images give larger
    maps; the PatchGAN sees them as they are."""
    judge = _discriminator(scale=2.0, patch_weight=0.5)
    judge.measure(IMAGES)
    maps = judge.features(torch.nn.functional.interpolate(IMAGES, scale_factor=2, mode="bilinear"))
    assert torch.allclose(judge.spread, torch.stack([m.std() for m in maps]))
    assert [x.shape[2] for x in judge(IMAGES)[:2]] == [32, 16]
    assert judge(IMAGES)[2].shape == _discriminator(patch_weight=0.5)(IMAGES)[2].shape


def test_expanded_maps_within_a_block() -> None:
    """They are six times as wide as the block's input, and looking at them changes nothing of what follows."""
    torch.manual_seed(0)
    both = Features("efficientnet_lite0", ("block3_expanded", "stride8")).eval()
    torch.manual_seed(0)
    plain = Features("efficientnet_lite0", ("stride8",)).eval()
    assert both.channels == [144, 40]
    wide, after = both(IMAGES)
    assert wide.shape == (3, 144, 8, 8) and torch.equal(after, plain(IMAGES)[0])
    with pytest.raises(ConfigError, match="no wider maps"):
        Features("efficientnet_lite0", ("stride2_expanded",))
