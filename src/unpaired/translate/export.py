"""A trained model as a file that runs without this package: ONNX, or PyTorch's own exported program.

One file a direction; where the target is an input (deepi2i, biggan), one for all classes. Batch, height and width stay
free (multiples of the stride) unless the method takes one size alone. What was written is run again, by ONNX Runtime or
by PyTorch, on several sizes and batches, and stays only where it equals the model.

Legend: N batch, H height, W width; images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from unpaired import __version__
from unpaired.config import ExportConfig
from unpaired.errors import ConfigError, UnpairedError, nearest
from unpaired.files import check_output, write_output
from unpaired.methods.base import Method
from unpaired.networks.kernels import Held
from unpaired.translate.tiling import MIN_STRIDES

if TYPE_CHECKING:
    from unpaired.translate.translator import Translator

WITHIN, HALF_WITHIN = 1e-4, 2e-2
"""Largest difference from the model, of a range of 2, that a file may have; with weights of half precision."""
HALF_FROM = 256
"""Tensors of fewer numbers keep full precision: they weigh nothing."""
KEY = "unpaired"
"""Where a file holds its metadata, a JSON text: in ONNX a property, in a .pt2 an extra file."""
Runs = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


class Direction(nn.Module):
    """One direction of a method as a module of tensors alone: what can be compiled and exported."""

    def __init__(self, method: Method, source: str | None, target: str, *, mask: bool = False) -> None:
        super().__init__()
        self.method, self.names, self.mask = method, (source, target), mask

    def forward(self, images: Tensor, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """The translation and, with ``mask``, where it changed the images."""
        translated = self.method.render(images, *self.names, *inputs)
        if not self.mask:
            return translated
        mask = self.method.attention(images)
        assert mask is not None, "asked before"
        return translated, mask


@dataclass(frozen=True)
class Export:
    """A file's content, and how far it is from the model."""

    content: bytes
    about: dict[str, Any]
    """The metadata in it."""
    difference: float
    """Largest difference from PyTorch, of a range of 2."""
    shapes: tuple[tuple[int, ...], ...]
    """Of the images it was tried on."""


def check_installed(package: str = "onnxruntime") -> None:
    """Raise ConfigError where ONNX and its runtime are not installed."""
    try:
        for name in ("onnx", "onnxscript", package):
            __import__(name)
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed; type: pip install 'unpaired[export]'") from error


def settled(method: Method) -> Method:
    """A twin that shares all tensors, but whose own integers (levels reached, attention on or off) are numpy's: in an
    exported program they decide once, and not at each call."""
    twin = copy.copy(method)
    twin._buffers = dict(method._buffers)
    for name, value in method._buffers.items():
        if value is not None and not value.is_floating_point():
            del twin._buffers[name]
            object.__setattr__(twin, name, value.cpu().numpy())
    return twin


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' warnings and logs: they speak of their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def examples(method: Method, target: str, shape: Sequence[int]) -> tuple[Tensor, ...]:
    """Random images of a shape [N, 3, H, W] and the inputs that go with them, always the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(tuple(shape), generator=generator) * 2 - 1
    return images, *method.inputs(images, target, generator)


def shapes(method: Method) -> tuple[tuple[int, ...], ...]:
    """Shapes on which an export is tried: three sizes, two batches."""
    if method.fixed_size is not None:
        return tuple((n, 3, method.fixed_size, method.fixed_size) for n in (1, 3))
    s, side = method.stride, max(MIN_STRIDES * method.stride, method.image_size // method.stride * method.stride)
    return (1, 3, side, side), (3, 3, MIN_STRIDES * s, 7 * s), (1, 3, side + 3 * s, MIN_STRIDES * s)


def names_of(tensors: Sequence[Tensor]) -> list[str]:
    """The inputs' names: images, noise (noise_1 and so on where there are several), class."""
    found, noises = ["images"], 0
    for tensor in tensors[1:]:
        if tensor.is_floating_point():
            found.append(f"noise_{noises}" if noises else "noise")
            noises += 1
        else:
            found.append("class")
    return found


def program_of(direction: Direction, target: str) -> ExportedProgram:
    """The direction as PyTorch exports it, with free batch, height and width. Raises UnpairedError."""
    method = direction.method
    side = method.fixed_size or 6 * method.stride
    tensors = examples(method, target, (2, 3, side, side if method.fixed_size else side - method.stride))
    batch = Dim("batch", min=1)
    free: dict[int, Any] = {0: batch}
    if method.fixed_size is None:
        free |= {2: method.stride * Dim("h", min=MIN_STRIDES), 3: method.stride * Dim("w", min=MIN_STRIDES)}
    dims = (free, tuple({0: batch} for _ in tensors[1:])) if tensors[1:] else (free,)
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad(), Held(method)():
            return torch.export.export(direction, tensors, dynamic_shapes=dims, strict=False)
    except Exception as error:  # of a dozen kinds
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UnpairedError(f"PyTorch cannot export this model ({reason})") from error


def to_onnx(direction: Direction, target: str, about: Mapping[str, Any], *, half: bool = False) -> bytes:
    """The direction as an ONNX file; ``half`` stores its weights in half precision (it still computes in float32).
    Inputs that nothing depends on are left out. Raises UnpairedError."""
    check_installed("onnx")
    program = program_of(direction, target)
    names = names_of(examples(direction.method, target, (1, 3, 8, 8)))
    with _quiet(), torch.no_grad():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=names,
            output_names=["translated", "mask"][: 1 + direction.mask],
            verbose=False,
        )
        assert made is not None, "dynamo gives a program"
        graph = made.model.graph
        for unused in [value for value in graph.inputs if not value.uses()]:
            graph.inputs.remove(unused)
        made.model.metadata_props.clear()
        made.model.metadata_props[KEY] = json.dumps(about)
        proto = made.model_proto
    return (_halved(proto) if half else proto).SerializeToString()  # type: ignore[no-any-return]


def _halved(proto: Any) -> Any:
    """The weights as float16, each with a cast back before its use."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= HALF_FROM:
            name = tensor.name
            small = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}_half")
            tensor.CopyFrom(small)
            casts.append(helper.make_node("Cast", [small.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def session(content: bytes, names: Sequence[str]) -> Runs:
    """What runs an ONNX file: a tensor for each of ``names``, of which it takes those that it has -> its outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    run = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in run.get_inputs()}

    def runs(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        feed = {n: t.contiguous().numpy() for n, t in zip(names, tensors, strict=True) if n in wanted}
        return tuple(torch.from_numpy(found) for found in run.run(None, feed))

    return runs


def describe(method: Method, source: str | None, target: str, header: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a file: what it takes, what it gives, where it came from."""
    tensors = examples(method, target, (1, 3, *[method.fixed_size or MIN_STRIDES * method.stride] * 2))
    return {
        **header,
        "domains": list(method.domains),
        "source": source,
        "target": None if method.any_source else target,
        "stride": method.stride,
        "fixed_size": method.fixed_size,
        "trained_at": method.image_size,
        "value_range": [-1, 1],
        "from_noise": method.from_noise,
        "inputs": {n: list(t.shape[1:]) for n, t in zip(names_of(tensors), tensors, strict=True)},
    }


@torch.no_grad()
def exported(
    method: Method, source: str | None, target: str, *, header: Mapping[str, Any], kind: str, half: bool = False
) -> Export:
    """Export a direction as ``onnx`` or ``pt2`` and try it.

    Args:
        header: what the metadata says of the model beside its directions and inputs.

    Raises:
        ConfigError: ONNX is not installed. UnpairedError: PyTorch cannot export it, or the file gives other images.
    """
    if kind == "onnx":
        check_installed()
    twin = settled(method)
    with torch.inference_mode(False):
        masked = twin.attention(torch.zeros(1, 3, *[MIN_STRIDES * twin.stride] * 2)) is not None
        about = describe(twin, source, target, header) | {"outputs": ["translated", "mask"][: 1 + masked], "half": half}
        direction = Direction(twin, source, target, mask=masked).eval()
        if kind == "onnx":
            content = to_onnx(direction, target, about, half=half)
            runs = session(content, list(about["inputs"]))
        else:
            file = io.BytesIO()
            with _quiet():
                torch.export.save(program_of(direction, target), file, extra_files={KEY: json.dumps(about)})
                content = file.getvalue()
                loaded = torch.export.load(io.BytesIO(content)).module()
            runs = lambda tensors: found if isinstance(found := loaded(*tensors), tuple) else (found,)  # noqa: E731
        tried, worst = shapes(twin), 0.0
        for shape in tried:
            tensors = examples(twin, target, shape)
            with Held(twin)():
                wanted = direction(*tensors)
            for a, b in zip(runs(tensors), wanted if masked else (wanted,), strict=True):
                worst = max(worst, float((a - b).abs().max().nan_to_num(torch.inf)))
    limit = HALF_WITHIN if half else WITHIN
    if not worst <= limit:
        raise UnpairedError(
            f"{source or 'any'} to {target}: the {kind} file differs from the model by {worst:.2g} of a range of 2, "
            f"more than {limit:g}: it is not kept" + (". Export it without --half" if half else "")
        )
    return Export(content, about, worst, tried)


def export_model(model: Translator, out: Path | str, options: ExportConfig) -> list[tuple[Path, Export]]:
    """Write what ``unpaired export`` writes: each file with what is in it (for a page all of its directions).

    Raises:
        ConfigError: no such direction, ONNX or the page's runtime not there. UnpairedError: a file differs from the
            model, or cannot be written; it is not left behind.
    """
    from unpaired.translate import page

    model.check_translates()
    out, method = Path(out), model.method
    check_output(out / "x" if out.is_dir() and options.format != "html" else out, f"model.{options.format}")
    if options.half and options.format == "pt2":
        raise ConfigError("--half goes with --format onnx and html: a .pt2 file computes in the weights' own precision")
    if model.device.type != "cpu":
        raise ConfigError(f"the model is on {model.device}, and is exported on a CPU: model.to('cpu') first")
    if options.format != "pt2":
        check_installed()
    ways = _ways(model, options.direction)
    given = page.runtime(options.runtime, webgpu=options.webgpu) if options.format == "html" else (b"", b"")
    single = out.suffix == f".{options.format}" or options.format == "html"
    if single and len(ways) > 1 and options.format != "html":
        there = ", ".join(f"{a}:{b}" for a, b in ways)
        raise ConfigError(f"{out}: one file holds one direction: add --direction, one of {there}, or name a folder")
    header = {"method": model.header.get("method"), "sha256": model.sha256, "version": __version__}
    kind = "pt2" if options.format == "pt2" else "onnx"
    done: list[tuple[Path, Export]] = []
    for source, target in ways:
        found = exported(method, source, target, header=header, kind=kind, half=options.half)
        name = header["method"] if method.any_source else f"{source}-to-{target}"
        done.append((out if single else out / f"{name}.{kind}", found))
    if options.format == "html":
        write_output(out, page.page([found for _, found in done], given, webgpu=options.webgpu))
    else:
        for path, found in done:
            write_output(path, found.content)
    return done


def _ways(model: Translator, asked: str | None) -> list[tuple[str | None, str]]:
    """The directions to export: all, or the one that ``asked`` names as SOURCE:TARGET. Raises ConfigError."""
    if model.method.any_source:
        if asked is not None:
            raise ConfigError("one file holds all of this model's classes (input 'class'): leave out --direction")
        return [(None, model.domains[0])]
    ways = {f"{a}:{b}": (a, b) for a, b in model.directions}
    if asked is None:
        return list(ways.values())
    if asked not in ways:
        raise ConfigError(f"no direction '{asked}'.{nearest(asked, ways)} There are: {', '.join(ways)}.")
    return [ways[asked]]
