"""``unpaired import``: commands that turn checkpoints of other projects into models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

app = App(name="import", help="Turn checkpoints of other projects into models of unpaired.", help_format="plaintext")

Generator = Annotated[Path, Parameter(help="Generator file.")]
Discriminator = Annotated[Path, Parameter(help="Discriminator file.")]
Checkpoint = Annotated[Path, Parameter(help="The checkpoint.")]
Pair = Annotated[str, Parameter(help="Names of A and B, as in cat,tiger.")]
Size = Annotated[int, Parameter(help="Resolution that it was trained at.")]
Out = Annotated[Path, Parameter(help="Model file to write, model.safetensors.")]


@app.command(name="unit-v2")
def import_unit_v2(
    gen: Generator,
    dis: Discriminator | None = None,
    /,
    *,
    domains: Pair,
    out: Out,
    norm: Literal["none", "instance"] = "none",
) -> None:
    """UNIT's paper branch (version_02): GEN.pkl and, for `unpaired train --start-from`, DIS.pkl.

    Parameters
    ----------
    norm
        none for COCOResGen2, instance for COCOResGen: the tensors are the same and do not tell.
    """
    from unpaired import interop

    _write(interop.import_unit_v2(gen, dis, interop.pair(domains), norm=norm), out, whole=dis is not None)


@app.command(name="unit-munit")
def import_unit_munit(gen: Generator, dis: Discriminator | None = None, /, *, domains: Pair, out: Out) -> None:
    """UNIT's second generation (MUNIT code base): GEN.pt and, for `unpaired train --start-from`, DIS.pt."""
    from unpaired import interop

    _write(interop.import_unit_munit(gen, dis, interop.pair(domains)), out, whole=dis is not None)


@app.command(name="biggan")
def import_biggan(gen: Generator, dis: Discriminator, /, *, domains: str | None = None, out: Out) -> None:
    """BigGAN-PyTorch: G_ema.pth (or G.pth) and D.pth, for DeepI2I to start from.

    Parameters
    ----------
    domains
        Names of all classes in order: comma-separated, or a text file with one a line. Numbered when left out.
    """
    from unpaired import interop

    _write(interop.import_biggan(gen, dis, interop.class_names(domains)), out, whole=True)


@app.command(name="deepi2i")
def import_deepi2i(
    gen: Generator,
    dis: Discriminator,
    enc: Path,
    ada: Path,
    /,
    *,
    domains: str,
    out: Out,
    mode: Literal["transfer", "scratch"] = "transfer",
) -> None:
    """DeepI2I: G.pth, D.pth, E1.pth (encoder) and A1.pth (adaptors) of the BigGAN variant.

    Parameters
    ----------
    enc
        Encoder file.
    ada
        Adaptor file.
    domains
        Names of the classes in order: comma-separated, or a text file with one a line. Fewer than the files have is
        right where the model reused ImageNet's rows.
    mode
        How it was trained: scratch weighs the adaptors 1, 1, 1, 0.1 at 4, 8, 16, 32 pixels, transfer 0.1 everywhere.
        The files do not tell, and the wrong one translates wrongly.
    """
    from unpaired import interop

    _write(interop.import_deepi2i(gen, dis, enc, ada, interop.class_names(domains) or (), mode=mode), out, whole=True)


@app.command(name="stylegan")
def import_stylegan(file: Path, /, *, out: Out, size: Size = 256, domains: str | None = None) -> None:
    """StyleGAN (stylegan-256px-new.model of style-based-gan-pytorch), for DeepI2I's StyleGAN variant to start from.

    Parameters
    ----------
    file
        The checkpoint; NVIDIA's own .pkl files run code when opened and are refused.
    domains
        A name for what it makes.
    """
    from unpaired import interop

    names = interop.class_names(domains) or ("images",)
    _write(interop.import_stylegan(file, names, size=size), out, whole=True)


@app.command(name="deepi2i-stylegan")
def import_deepi2i_stylegan(file: Checkpoint, /, *, domains: str, out: Out, size: Size = 256) -> None:
    """DeepI2I's StyleGAN variant: train_step-NNNNNN.model of the released code.

    Parameters
    ----------
    domains
        What it translates from and to, as in dog,cat.
    """
    from unpaired import interop

    _write(interop.import_deepi2i_stylegan(file, interop.pair(domains), size=size), out, whole=True)


@app.command(name="cyclegan")
def import_cyclegan(*files: Path, domains: str, out: Out) -> None:
    """CycleGAN (pytorch-CycleGAN-and-pix2pix): latest_net_G_A.pth and latest_net_G_B.pth as a model of method cycle,
    one of them alone as a one-way model; to train on, latest_net_D_A.pth and latest_net_D_B.pth behind them.

    Parameters
    ----------
    files
        ResNet generators with instance norm; then the discriminators of what they make.
    domains
        What the first generator translates from and to: horse,zebra for G_A of horse2zebra, zebra,horse for G_B.
    """
    from unpaired import interop

    _write(interop.import_cyclegan(files, interop.pair(domains)), out, whole=True)


def _write(imported: tuple[Any, dict[str, Any]], out: Path, *, whole: bool) -> None:
    from unpaired.checkpoint import write_model

    method, header = imported
    write_model(out, method, header, whole=whole)
    if len(method.domains) > 2:
        print(f"wrote {out}: {len(method.domains)} classes")
    elif method.from_noise:
        print(f"wrote {out}: makes images of {' and '.join(method.domains)} from noise")
    else:
        print(f"wrote {out}: {', '.join(f'{a} → {b}' for a, b in method.directions)}")
