"""Foreign PyTorch files: what is read, what is refused and with which words; official UNIT checkpoints of other
shapes."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unpaired.errors import CheckpointError, ConfigError
from unpaired.interop import import_unit_munit, import_unit_v2, pair, read_torch_file

WEIGHTS = {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    """A file that torch.save wrote."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def harm() -> None:
    """What an attack would call; reaching it fails the test."""
    raise AssertionError("code from the file was run")


class Attack:
    """Pickles as a call of harm()."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return harm, ()


# -- reading


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_are_read(tmp_path: Path, legacy: bool) -> None:
    """Zip files and files from before PyTorch 1.6 give the same tensors; nested names are joined, scalars dropped."""
    path = saved(tmp_path / "w.pt", {"a": WEIGHTS, "b": {"w": nn.Parameter(torch.zeros(1))}, "step": 3}, legacy=legacy)
    found = read_torch_file(path)
    assert set(found) == {"a.w", "a.b", "b.w"}
    assert torch.equal(found["a.w"], WEIGHTS["w"])
    path.unlink()  # the tensors are owned, not mapped
    assert found["a.w"].sum() == 15


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_is_noticed(tmp_path: Path, legacy: bool) -> None:
    """A file cut short at any of many points is refused without a traceback of another kind."""
    path = saved(tmp_path / "w.pt", {"w": torch.ones(64)}, legacy=legacy)
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 1, max(len(whole) // 40, 1)):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            read_torch_file(path)


def test_bad_tensors(tmp_path: Path) -> None:
    """NaN, infinity, and integers are listed together; batch norm's counters are dropped."""
    content = {
        "nan": torch.tensor([1.0, float("nan")]),
        "inf": torch.tensor(float("inf")),
        "int": torch.ones(2, dtype=torch.int64),
        "fine": torch.ones(1),
    }
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(saved(tmp_path / "w.pt", content))
    text = str(caught.value)
    assert "3 unusable tensors" in text
    assert all(line in text for line in ("nan: NaN or infinity", "inf: NaN or infinity", "int: torch.int64"))
    counters = {"bn.num_batches_tracked": torch.tensor(3), "bn.weight": torch.ones(1)}
    assert set(read_torch_file(saved(tmp_path / "bn.pt", counters))) == {"bn.weight"}


def test_other_contents(tmp_path: Path) -> None:
    """One stored number for a large tensor, sparse tensors, dictionaries nested too deep, circular ones, no named
    tensors."""
    with pytest.raises(CheckpointError, match="1,000,000 elements on 4 stored bytes"):
        read_torch_file(saved(tmp_path / "w.pt", {"w": torch.ones(1).expand(1_000_000)}))
    with pytest.raises(CheckpointError, match="sparse"):
        read_torch_file(saved(tmp_path / "s.pt", {"w": torch.eye(2).to_sparse()}))
    circle: dict[str, Any] = {"w": torch.ones(1)}
    circle["again"] = circle
    with pytest.raises(CheckpointError, match="nested deeper"):
        read_torch_file(saved(tmp_path / "c.pt", circle))
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        read_torch_file(saved(tmp_path / "e.pt", {"epoch": 3}))


# -- official UNIT checkpoints


def conv(out: int, into: int, kernel: int, name: str) -> dict[str, Tensor]:
    """Weight and bias of one layer, under the official names."""
    return {f"{name}.weight": torch.randn(out, into, kernel, kernel), f"{name}.bias": torch.randn(out)}


def v2_generator(width: int = 4, private: int = 2, shared: int = 2) -> dict[str, Tensor]:
    """A generator of the paper's branch with other numbers of blocks than the published ones."""
    c = 4 * width
    state: dict[str, Tensor] = {}
    for letter in "AB":
        state |= conv(width, 3, 7, f"encode_{letter}.0.model.0")
        state |= conv(2 * width, width, 3, f"encode_{letter}.1.model.0")
        state |= conv(c, 2 * width, 3, f"encode_{letter}.2.model.0")
        for i in range(private):
            for j in (0, 3):
                state |= conv(c, c, 3, f"encode_{letter}.{3 + i}.model.{j}") | conv(
                    c, c, 3, f"decode_{letter}.{i}.model.{j}"
                )
        for i, (a, b, k, tail) in enumerate(
            [(c, 2 * width, 3, ".model.0"), (2 * width, width, 3, ".model.0"), (width, 3, 1, "")]
        ):
            name = f"decode_{letter}.{private + i}{tail}"
            state |= {f"{name}.weight": torch.randn(a, b, k, k), f"{name}.bias": torch.randn(b)}
    for i in range(shared):
        for j in (0, 3):
            state |= conv(c, c, 3, f"enc_shared.{i}.model.{j}") | conv(c, c, 3, f"dec_shared.{i}.model.{j}")
    return state


def stack(name: str, widths: list[int], kernel: int, head: int, first: int = 0) -> dict[str, Tensor]:
    """A column of convolutions ``name.i.model.0`` and the head ``name.n``."""
    state: dict[str, Tensor] = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        state |= conv(b, a, first if i == 0 and first else kernel, f"{name}.{i}.model.0")
    return state | (conv(1, widths[-1], 1, f"{name}.{len(widths) - 1}") if head else {})


def test_sizes_are_inferred(tmp_path: Path) -> None:
    """Width, blocks and shared blocks come from the tensors, also where they are not the published ones."""
    state = v2_generator(width=4, private=1, shared=3)
    method, header = import_unit_v2(saved(tmp_path / "x_gen_00000042.pkl", state), domains=("cat", "tiger"))
    c = method.config
    assert (c.width, c.residual_blocks, c.shared_layers, c.downsampling, c.norm) == (4, 4, 3, 2, "none")
    assert (c.kl, c.weight_decay) == ("released", 1e-4)  # that code's own training
    assert (header["step"], header["domains"], header["image_size"]) == (42, ["cat", "tiger"], 256)
    assert torch.equal(method.encoder_shared[2].body[3].bias, state["enc_shared.2.model.3.bias"])
    assert not method.training and not any(p.requires_grad for p in method.parameters())


def test_old_leftovers_are_dropped(tmp_path: Path) -> None:
    """Running statistics of old instance norms and DataParallel's prefix change nothing."""
    state = v2_generator()
    noisy = {f"module.{k}": v for k, v in state.items()}
    noisy |= {
        "module.encode_A.3.model.1.running_mean": torch.zeros(16),
        "module.encode_A.3.model.1.running_var": torch.ones(16),
    }
    plain, _ = import_unit_v2(saved(tmp_path / "a.pkl", state))
    other, _ = import_unit_v2(saved(tmp_path / "b.pkl", collections.OrderedDict(noisy), legacy=True))
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(plain.translate(x, "a", "b"), other.translate(x, "a", "b"))


def test_shared_and_multiscale_discriminators(tmp_path: Path) -> None:
    """Shared and multi-scale discriminators of the paper's branch are recognised and land in their places."""
    gen = saved(tmp_path / "g.pkl", v2_generator())
    state: dict[str, Tensor] = stack("model_S", [8, 16, 32], 3, head=1)
    for letter in "AB":
        state |= stack(f"model_{letter}", [3, 4, 8], 3, head=0, first=7)
    method, _ = import_unit_v2(gen, saved(tmp_path / "s.pkl", state))
    c = method.config
    assert (c.discriminator, c.discriminator_private, c.discriminator_layers, c.discriminator_width) == (
        "shared",
        2,
        4,
        4,
    )
    assert torch.equal(method.discriminators.back[1][0].weight, state["model_S.1.model.0.weight"])
    state = {}
    for letter in "AB":
        for factor in (1, 2, 4):
            state |= stack(f"model_{factor}_{letter}", [3, 4, 8], 3, head=1)
    method, _ = import_unit_v2(gen, saved(tmp_path / "m.pkl", state))
    c = method.config
    assert (c.discriminator, c.scales, c.discriminator_layers) == ("multiscale", 3, 2)
    third = method.discriminators.of_domain[1].scales[2]
    assert torch.equal(third.head.weight, state["model_4_B.2.weight"])


def test_mismatches_are_a_table(tmp_path: Path) -> None:
    """A missing, an extra and a misshapen tensor are listed together with what was wanted and found."""
    state = v2_generator()
    del state["decode_B.3.model.0.bias"]
    state["encode_A.9.extra.weight"] = torch.ones(2)
    state["enc_shared.0.model.0.weight"] = torch.ones(16, 16, 5, 5)
    with pytest.raises(CheckpointError) as caught:
        import_unit_v2(saved(tmp_path / "g.pkl", state))
    rows = [line.split() for line in str(caught.value).split("\n")[1:]]
    assert "3 tensors do not fit" in str(caught.value)
    assert ["decode_B.3.model.0.bias", "4", "-"] in rows
    assert ["encode_A.9.extra.weight", "-", "2"] in rows
    assert ["enc_shared.0.model.0.weight", "16×16×3×3", "16×16×5×5"] in rows


def test_wrong_kind_of_checkpoint(tmp_path: Path) -> None:
    """A file of another network, of the other generation, or of MUNIT proper is refused by name."""
    other = saved(tmp_path / "o.pkl", WEIGHTS)
    with pytest.raises(CheckpointError, match="not a generator of UNIT's branch version_02: it has no tensor"):
        import_unit_v2(other)
    with pytest.raises(CheckpointError, match="not a generator of the MUNIT code base"):
        import_unit_munit(other)
    styles = saved(tmp_path / "m.pt", {"a": {"enc_style.model.0.conv.weight": torch.ones(1)}})
    with pytest.raises(CheckpointError, match="style codes"):
        import_unit_munit(styles)
    with pytest.raises(CheckpointError, match="not a discriminator"):
        import_unit_v2(saved(tmp_path / "g.pkl", v2_generator()), other)
    for text in ("cat", "cat,cat", "cat,", "a,b,c"):
        with pytest.raises(ConfigError, match="--domains"):
            pair(text)


def test_munit_prefix(tmp_path: Path) -> None:
    """MUNIT's prefix enc_content is accepted, with one downsampling and two blocks, and running statistics are
    dropped."""
    state: dict[str, dict[str, Tensor]] = {}
    for letter in "ab":
        s = conv(4, 3, 7, "enc_content.model.0.conv") | conv(8, 4, 4, "enc_content.model.1.conv")
        for i in range(2):
            for j in range(2):
                s |= conv(8, 8, 3, f"enc_content.model.2.model.{i}.model.{j}.conv")
                s |= conv(8, 8, 3, f"dec.model.0.model.{i}.model.{j}.conv")
        s |= conv(4, 8, 5, "dec.model.2.conv") | {
            "dec.model.2.norm.gamma": torch.rand(4),
            "dec.model.2.norm.beta": torch.rand(4),
        }
        s |= conv(3, 4, 7, "dec.model.3.conv") | {"enc_content.model.0.norm.running_mean": torch.zeros(4)}
        state[letter] = s
    method, header = import_unit_munit(saved(tmp_path / "gen_00000007.pt", state), domains=("day", "night"))
    assert (method.config.downsampling, method.config.residual_blocks, method.stride, header["step"]) == (1, 2, 2, 7)
    assert torch.equal(method.generators[1][2][2].gamma, state["b"]["dec.model.2.norm.gamma"])
