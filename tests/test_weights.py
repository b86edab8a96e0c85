"""Finding and fetching weights: order of places, hashes, downloads from a server on this machine, errors."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import SHARED
from unpaired import weights
from unpaired.errors import WeightsError
from unpaired.weights import CATALOGUE, Weights, find

CONTENT = b"these are weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_real_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("UNPAIRED_WEIGHTS", raising=False)
    monkeypatch.delenv("UNPAIRED_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "PAUSE_S", 0.0)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """(address, requested paths) of a server that gives CONTENT, or an HTML page under /proxy/."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            if self.path.startswith("/gone"):
                self.send_error(404)
                return
            cut = self.path.startswith("/cut") or (self.path.startswith("/flaky") and len(seen) < 3)
            body = b"<html>log in</html>" if self.path.startswith("/proxy") else CONTENT
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", seen
        running.shutdown()
        thread.join()


def entry(url: str | None, sha256: str = DIGEST, also: tuple[str, ...] = ()) -> dict[str, Weights]:
    return {"net": Weights("net", "net-v1.pth", sha256, "MIT", "a test", url, also)}


@pytest.mark.parametrize("digits", [8, 64])
def test_a_download_of_the_right_hash_is_kept_and_found_again(
    server: tuple[str, list[str]], tmp_path: Path, digits: int
) -> None:
    """The file lands in torch.hub's cache under its name; the second look asks nobody."""
    url, seen = server
    catalogue = entry(f"{url}/net-v1.pth", DIGEST[:digits])
    path = find("net", catalogue=catalogue)
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / "net-v1.pth" and path.read_bytes() == CONTENT
    assert find("net", catalogue=catalogue) == path and len(seen) == 1
    assert [p.name for p in path.parent.iterdir()] == ["net-v1.pth"]


@pytest.mark.parametrize(
    ("place", "text"), [("proxy", "cut short, or a proxy"), ("gone", "404"), ("cut", "cut short, or a proxy")]
)
def test_a_wrong_download_is_removed(server: tuple[str, list[str]], tmp_path: Path, place: str, text: str) -> None:
    """A wrong hash, a missing page and a cut transfer are WeightsErrors that leave no file."""
    with pytest.raises(WeightsError, match=text) as caught:
        find("net", catalogue=entry(f"{server[0]}/{place}/net-v1.pth"))
    assert "UNPAIRED_WEIGHTS" in str(caught.value) and caught.value.exit_code == 2
    assert list((tmp_path / "torch" / "hub" / "checkpoints").iterdir()) == []


def test_a_download_is_tried_again(server: tuple[str, list[str]]) -> None:
    """A transfer that was cut twice succeeds at the third try; a page that is not there is asked for once."""
    url, seen = server
    assert find("net", catalogue=entry(f"{url}/flaky/net-v1.pth")).read_bytes() == CONTENT and len(seen) == 3
    with pytest.raises(WeightsError):
        find("net", catalogue={"net": replace(entry(f"{url}/gone/net-v1.pth")["net"], file="other.pth")})
    assert len(seen) == 4


def test_offline_names_file_address_and_place(
    server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With UNPAIRED_OFFLINE nothing is asked; the text has the file's name, its address, and where to put it."""
    monkeypatch.setenv("UNPAIRED_OFFLINE", "1")
    url, seen = server
    with pytest.raises(WeightsError) as caught:
        find("net", catalogue=entry(f"{url}/net-v1.pth"))
    text = str(caught.value)
    assert f"Download {url}/net-v1.pth" in text and str(tmp_path / "torch") in text and "downloads are off" in text
    assert seen == []


def test_weights_without_an_address_say_what_to_bring() -> None:
    """MobileNet has no official address: the error names the file."""
    with pytest.raises(WeightsError, match=r"Bring the file mobilenet_v1_1\.0_to_conv12\.pth"):
        find("mobilenet_v1")


def test_places_are_asked_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given file or folder first and alone, then $UNPAIRED_WEIGHTS, then torch.hub's cache; other names count."""
    given, own, cache = tmp_path / "given", tmp_path / "own", tmp_path / "torch" / "hub" / "checkpoints"
    for folder in (given, own, cache):
        folder.mkdir(parents=True)
    catalogue = entry(None, also=("other.pth",))
    (cache / "other.pth").write_bytes(CONTENT)
    assert find("net", catalogue=catalogue) == cache / "other.pth"
    monkeypatch.setenv("UNPAIRED_WEIGHTS", str(own))
    (own / "net-v1.pth").write_bytes(CONTENT)
    assert find("net", catalogue=catalogue) == own / "net-v1.pth"
    with pytest.raises(WeightsError, match="holds no file of that name"):
        find("net", given, catalogue=catalogue)
    (given / "renamed.bin").write_bytes(CONTENT)
    assert find("net", given / "renamed.bin", catalogue=catalogue) == given / "renamed.bin"
    with pytest.raises(WeightsError, match="no such file or folder"):
        find("net", tmp_path / "absent", catalogue=catalogue)


def test_a_local_file_of_the_wrong_hash_is_refused_and_left_alone(tmp_path: Path) -> None:
    """One flipped byte is noticed; the user's file stays."""
    file = tmp_path / "net-v1.pth"
    file.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=f"SHA-256 is .*, expected {DIGEST[:8]}"):
        find("net", file, catalogue=entry(None))
    assert file.exists()


def test_an_unknown_name_gets_the_nearest() -> None:
    """vgg-19 is answered with vgg19."""
    with pytest.raises(WeightsError, match=r"Did you mean 'vgg19'\?"):
        find("vgg-19")


def test_loading_never_unpickles(tmp_path: Path) -> None:
    """A pickle that would create a file is refused and does not run; plain tensors load."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "canary",))  # type: ignore[return-value]

    for name, content in (("evil", pickle.dumps({"w": Evil()}, protocol=2)), ("list", None)):
        path = tmp_path / f"{name}.pth"
        if content is None:
            torch.save([1, 2], path)
        else:
            path.write_bytes(content)
        with pytest.raises(WeightsError, match="plain"):
            weights.read(path)
    assert not (tmp_path / "canary").exists()
    torch.save({"w": torch.arange(3)}, tmp_path / "good.pth")
    assert torch.equal(weights.read(tmp_path / "good.pth")["w"], torch.arange(3))


def test_the_catalogue_is_whole() -> None:
    """Each entry has a hash of 8 or 64 hexadecimal digits that its file's name, where it holds one, agrees with."""
    for name, w in CATALOGUE.items():
        assert name == w.name and w.licence and w.note and len(w.sha256) in (8, 64)
        assert int(w.sha256, 16) >= 0 and (w.url is None or w.url.startswith("https://"))
        if w.url is not None:
            assert w.url.rsplit("/", 1)[1] in (w.file, *w.also)
            assert len(w.sha256) == 64 or w.sha256 in w.file


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="../shared/weights is not here")
def test_the_shared_files_have_the_hashes_of_the_catalogue() -> None:
    """The two files without an official address are those that were measured."""
    for name in ("mobilenet_v1", "squeezenet_v1.1_features"):
        assert find(name, SHARED / "weights").is_file()
