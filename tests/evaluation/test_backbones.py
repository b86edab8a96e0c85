"""The FID network and torchvision's classifiers as backbones: against independent definitions, files with and without the right hash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unpaired import weights
from unpaired.errors import ConfigError, WeightsError
from unpaired.evaluation.features import BACKBONES, backbone_from_state, figure_name, open_backbone, state_hash
from unpaired.files import sha256_of
from unpaired.networks import classifiers, inception


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
    """The same weights through torchvision's Inception v3, whose average pools leave padding out and whose ninth and last one is a
    maximum: the same 2,048 features to the last bits."""
    weights.import_torchvision()
    from torchvision.models import inception as theirs

    network = theirs.Inception3(aux_logits=False, transform_input=False, init_weights=False).eval()
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


def test_torch_fidelity_has_the_same_features(fid_state: dict[str, Tensor], tmp_path: Path) -> None:
    """Where torch-fidelity is installed: its extractor with these weights gives the same features from 8-bit pictures to 1e-4."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(fid_state, tmp_path / "weights.pth")
    extractor = fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(tmp_path / "weights.pth"))
    pixels = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    ours = backbone_from_state("fid", fid_state)(pixels.float() / 127.5 - 1)
    (theirs,) = extractor(pixels)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_only_the_fid_network_gives_a_figure_called_fid() -> None:
    """FID and KID for it, with its resize in the name where that is not the original's; FD- and KD- for all others."""
    assert figure_name("FD", "fid") == "FID" and figure_name("KD", "fid") == "KID"
    assert figure_name("FD", "fid-antialias") == "FID-antialias"
    assert figure_name("FD", "inception_v3") == "FD-inception_v3" and figure_name("KD", "resnet18") == "KD-resnet18"
    assert figure_name("precision", "fid") == "precision-fid"


def test_a_missing_or_wrong_file_is_refused_by_name(
    fid_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the file its name, address and place are said; a file of that name with other bytes is refused by its hash; with the
    right hash (here: that of the file made for this test) it gives features, fp32 and bf16 apart."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)
    name = "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(WeightsError, match=name) as missing:
        open_backbone("fid")
    assert "github.com/toshas/torch-fidelity" in str(missing.value) and "UNPAIRED_WEIGHTS" in str(missing.value)
    torch.save(fid_state, tmp_path / name)
    with pytest.raises(WeightsError, match=r"expected 6726825d.*damaged"):
        open_backbone("fid", tmp_path)
    known = replace(weights.CATALOGUE["fid-inception"], sha256=sha256_of(tmp_path / name))
    monkeypatch.setitem(weights.CATALOGUE, "fid-inception", known)
    images = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    original, antialiased = (open_backbone(n, tmp_path) for n in ("fid", "fid-antialias"))
    a, b = original(images), antialiased(images)
    assert original.dim == 2048 and a.shape == (1, 2048) and original.sha256 == known.sha256
    assert "TensorFlow 1" in original.resize and "299×299" in original.resize and "torchmetrics" in antialiased.resize
    assert not torch.equal(a, b)
    with pytest.raises(WeightsError, match="no Inception v3"):
        backbone_from_state("fid", {"conv.weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="fp32 and bf16"):
        open_backbone("fid", tmp_path, precision="fp16")


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("squeezenet1_0", 512)])
def test_any_classifier_of_torchvision_is_a_backbone(name: str, dim: int) -> None:
    """By its name there: what its last linear layer sees, on float32, also under bf16; foreign tensors are refused."""
    models = weights.import_torchvision().models
    state = getattr(models, name)(weights=None).state_dict()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact, fast = (backbone_from_state(name, state, precision=p) for p in ("fp32", "bf16"))
    a, b = exact(images), fast(images)
    assert a.shape == (2, dim) and exact.dim == dim and a.dtype == b.dtype == torch.float32
    assert 0 < float((a - b).abs().max()) < 0.2 * float(a.abs().max())
    with pytest.raises(WeightsError, match=f"no {name} of torchvision"):
        backbone_from_state(name, {})


def test_weights_of_torchvision_are_known_by_the_hash_in_their_name(tmp_path: Path) -> None:
    """resnet50's file name holds eight digits of its SHA-256; a file with other bytes is refused; 'detection' is no classifier."""
    known = weights.torchvision_weights("resnet50")
    assert (
        known.file.endswith(f"-{known.sha256}.pth") and known.url == f"https://download.pytorch.org/models/{known.file}"
    )
    (tmp_path / known.file).write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=known.file):
        open_backbone("resnet50", tmp_path)
    with pytest.raises(ConfigError, match="every classifier"):
        open_backbone("fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize("name", ["mobilenet_v1", "fid"])
def test_folded_networks_give_the_same_features(name: str) -> None:
    """With batch norms in the convolutions and channels last, features equal the network's as built to 1e-4, and the tensors
    that it was built from stay what they were."""
    torch.manual_seed(0)
    network = classifiers.MobileNetV1() if name == "mobilenet_v1" else inception.FIDInception()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as trained: not the statistics of a new one
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    state = {k: v.clone() for k, v in network.state_dict().items()}
    quick = backbone_from_state(name, state)
    images = torch.rand(1, 3, quick.side, quick.side) * 2 - 1
    found, wanted = quick(images), BACKBONES[name].build(network.state_dict()).eval()(images)
    assert (found - wanted).norm() / wanted.norm() < 1e-4
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in state.items())
    assert quick.sha256 == state_hash(network.state_dict())
