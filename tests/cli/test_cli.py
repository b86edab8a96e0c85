"""The command line: what each command prints, refuses, and returns. Exit codes are those of errors.py."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

import tiny
from unpaired import checkpoint, cli
from unpaired.config import preset, presets
from unpaired.errors import DataError, Interrupted, NonFiniteError, PartialError, UnpairedError

SMALL = [
    "--set",
    "model.width=4",
    "--set",
    "model.discriminator_width=4",
    "--set",
    "model.discriminator_layers=3",
    "--set",
    "data.size=16",
]
FAST = [*SMALL, *["--device", "cpu", "--precision", "fp32", "--set", "training.tensorboard=false"]]


def run(*arguments: object) -> int:
    """The exit code of ``unpaired ARGUMENTS``."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(a) for a in arguments])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA and RUN after two steps of UNIT through the command line."""
    root = tmp_path_factory.mktemp("cli")
    tiny.folder(root / "data")
    assert run("train", root / "data", "--out", root / "run", *FAST, "--steps", 2, "--quiet") == 0
    return root


def test_help_and_version_do_not_import_torch() -> None:
    """`unpaired --help`, `--version` and each command's help answer without loading torch."""
    code = (
        "import sys, unpaired.cli as c\n"
        "for a in (['--help'], ['--version'], ['train', '--help'], ['import', 'unit-v2', '--help'], ['presets']):\n"
        "    try: c.main(a)\n"
        "    except SystemExit as e: assert not e.code, a\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("train", "translate", "evaluate", "compare", "check", "adapt", "import", "info", "presets", "demo"):
        assert re.search(rf"^│ {command} ", done.stdout, re.M), command


def test_help_says_what_the_docstrings_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Texts, choices and defaults of options, also of those that stand in an options object; lists as they are
    typed."""
    pages = []
    for command in ("train", "evaluate"):
        assert run(command, "--help") == 0
        pages.append(" ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split()))
    assert "Steps between two looks at held-out training images: distances on them; the best" in pages[0]
    assert "auto takes bf16 where the hardware has it. [choices: auto, fp32, tf32, bf16]" in pages[0]
    assert "[default: distances,coverage,errors,content]" in pages[1] and "[default: 200]" in pages[1]
    assert "--no-cache" in pages[1] and "empty" not in pages[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "unpaired train: DATA is missing. `unpaired train --help` shows what it takes"),
        (["train", "DATA"], "unpaired train: --out is missing."),
        (["import", "unit-v2"], "unpaired import unit-v2: GEN is missing."),
        (["translate", "RUN", "PICTURE", "--to", "B"], "unpaired translate: --out is missing."),
        (["train", "DATA", "--out"], "--out requires an argument"),
        (["train", "DATA", "--otu", "RUN"], "Did you mean --out instead of --otu?"),
        (["presets", "unit-small", "x"], "unpaired presets: too much was typed: x."),
        (["presets", "unit-smal"], "Did you mean 'unit-small'? `unpaired presets` lists all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_was_not_typed_is_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing, too much or unknown exits 2 with its name and where to look."""
    assert run(*words) == 2
    assert said in capsys.readouterr().err


def test_a_preset_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """`unpaired presets NAME` prints the file: what it is, the command, the cost, and settings that read back."""
    assert run("presets", "unit-small") == 0
    text = capsys.readouterr().out
    assert "# unpaired train DATA --preset unit-small --out RUN" in text and "# Cost: " in text
    assert tomllib.loads(text) == preset("unit-small")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_knows_the_commands(shell: str) -> None:
    """A completion script for each shell names every command."""
    script = cli.app.generate_completion(prog_name="unpaired", shell=shell)  # type: ignore[arg-type]
    assert all(command in script for command in ("train", "translate", "adapt", "unit-munit"))


def test_the_three_commands_of_the_readme(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """check, train, translate work on a folder of one's own; info and evaluate describe the result."""
    assert run("check", trained / "data") == 0
    assert "unpaired train" in capsys.readouterr().out
    out = trained / "out"
    words = ["--to", "blue", "--out", out, "--device", "cpu", "--quiet"]
    assert run("translate", trained / "run", trained / "data/test/red", *words) == 0
    assert sorted(p.name for p in out.glob("*.png")) == ["000.png", "001.png", "002.png"]
    capsys.readouterr()
    assert run("info", trained / "run", "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert about["method"] == "unit" and about["step"] == 2 and about["domains"] == ["blue", "red"]
    assert run("info", trained / "run") == 0
    text = capsys.readouterr().out
    assert re.search(r"^domains +blue, red$", text, re.M) and re.search(r"^random outputs +no$", text, re.M)
    assert "model: " in text and "width=4" in text and "mirror=true" in text and "null" not in text
    results = trained / "results.json"
    assert run("evaluate", trained / "run", trained / "data", "--out", results, "--device", "cpu") == 0
    assert json.loads(results.read_text())


def test_the_same_command_resumes_and_a_changed_one_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A complete run is left alone; a changed setting exits 2 and says what to type."""
    same = ["train", trained / "data", "--out", trained / "run", *FAST, "--steps", 2]
    assert run(*same) == 0
    said = capsys.readouterr()
    assert "complete" in said.err
    assert f"next: unpaired translate {trained / 'run'} PICTURES --to red --out DIR" in said.out
    assert run(*same, "--seed", 9) == 2
    assert "seed: 0 in the run, 9 now" in capsys.readouterr().err
    assert (
        run("train", trained / "data", "--out", trained / "run", "--quiet") == 0
    )  # DATA and --out are enough to go on


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], 'Did you mean "train"'),
        (["train", "DATA", "--out", "R", "--precision", "fp16"], "fp16"),
        (["train", "nowhere", "--out", "R"], "nowhere"),
        (["train", "DATA", "--out", "R", "--method", "unt"], "Did you mean 'unit'?"),
        (["train", "DATA", "--out", "R", "--preset", "unit-smal"], "Did you mean 'unit-small'?"),
        (["train", "DATA", "--out", "R", "--set", "model.widht=3"], "Did you mean 'model.width'?"),
        (["train", "DATA", "--out", "R", "--set", "data.size=2"], "data.size = 2"),
        (["train", "DATA", "--out", "R", "--set", "data.size"], "KEY=VALUE"),
        (["train", "DATA", "--out", "R", "--set", "data.size=64", "--set", "data.resize=32"], "smaller than the crop"),
        (["train", "DATA", "--out", "R", "--steps", "0"], "greater than or equal to 1"),
        (["train", "DATA", "--out", "R", "--device", "cuda:7"], "cuda:7"),
        (["train", "DATA", "--out", "R", "--device", "toaster"], "toaster"),
        (["train", "DATA", "--out", "R", "--config", "nowhere.toml"], "nowhere.toml"),
        (["train", "DATA", "--out", "R", "--set", "training.precision=tf32", "--device", "cpu"], "needs a GPU"),
        (["translate", "RUN", "DATA/test/red", "--to", "bleu", "--out", "O"], "Did you mean 'blue'?"),
        (["translate", "RUN", "nowhere.png", "--to", "blue", "--out", "O"], "nowhere.png"),
        (["translate", "nowhere", "DATA/test/red", "--to", "blue", "--out", "O"], "no such file"),
        (["info", "DATA"], "model file or a run folder"),
        (["import", "unit-v2", "nowhere.pkl", "--domains", "a,b", "--out", "m.safetensors"], "nowhere.pkl"),
        (["import", "unit-v2", "nowhere.pkl", "--domains", "a", "--out", "m.safetensors"], "two different names"),
        (["check", "nowhere"], "nowhere"),
    ],
)
def test_refusals_say_what_is_wrong_and_what_to_type(
    arguments: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong command exits 2 with one readable error, no traceback, and leaves nothing behind."""
    monkeypatch.chdir(trained)
    (trained / "DATA").is_symlink() or (trained / "DATA").symlink_to("data")
    (trained / "RUN").is_symlink() or (trained / "RUN").symlink_to("run")
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err and err.startswith("error: ") and "Traceback" not in err
    assert not (trained / "R").exists() and not (trained / "O").exists()


def test_a_non_finite_loss_exits_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate that blows up: exit 4, the stage, update and step are named, the last good checkpoint stays."""
    data = tiny.folder(tmp_path / "data")
    code = run("train", data, "--out", tmp_path / "r", *FAST, "--steps", 60, "--set", "model.lr=1e30", "--quiet")
    err = capsys.readouterr().err
    assert code == 4 and "non-finite loss at step" in err and "update '" in err
    assert checkpoint.latest(tmp_path / "r" / "checkpoints")[0] is not None


def test_exit_codes_are_those_that_the_docs_state() -> None:
    """0 ok, 1 failed, 2 refused, 3 some items failed, 4 stopped by itself, 130 and 143 signals."""
    assert [error.exit_code for error in (UnpairedError, DataError, PartialError, NonFiniteError)] == [1, 2, 3, 4]
    assert [Interrupted(s, "").exit_code for s in (signal.SIGINT, signal.SIGTERM)] == [130, 143]


def test_every_preset_is_valid_and_opens_with_its_command() -> None:
    """Each shipped preset builds a run; its head names a command and what to expect."""
    from importlib import resources

    from unpaired.training.run import resolve

    assert presets()
    for name in presets():
        config = resolve(preset=name)
        assert config.model.with_steps(10)
        text = (resources.files("unpaired") / "presets" / f"{name}.toml").read_text()
        head = text[: text.index("\nmethod")]
        assert "unpaired" in head and name in head, f"{name}: no command in its head"


def test_an_unexpected_error_asks_for_a_report(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of ours is one line and exit 1; --debug shows the traceback."""
    monkeypatch.setattr("unpaired.data.check.check", lambda *_: 1 / 0)
    assert run("check", trained / "data") == 1
    assert "this is a bug in unpaired" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", str(trained / "data"), "--debug"])


def test_no_torch_file_is_read_outside_the_safe_reader() -> None:
    """torch.load stands in the safe reader and the weight loader alone, always with weights_only=True; pickle
    nowhere."""
    source = Path(checkpoint.__file__).parent
    for path in source.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"pickle\.loads?\(|Unpickler\(|import (dill|joblib|cloudpickle)", text), path
        for call in re.findall(r"(?<!safetensors\.)torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, (path, call)
        assert "allow_pickle=True" not in text, path
    assert os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD") is None


def test_pretrain_transfer_samples_and_grid(tmp_path: Path) -> None:
    """The commands of docs/methods/deepi2i.md in order: pretrain, train with --pretrained, several samples of a picture
    of no trained domain, a grid of all classes; wrong uses exit with 2 and say what to do."""
    tiny.folder(tmp_path / "data", count=6, side=32, domains=("red", "green", "blue"))
    quick = ["--device", "cpu", "--precision", "fp32", "--set", "training.tensorboard=false", "--steps", 2, "--quiet"]
    quick += ["--set", "model.batch_size=2"]
    shape = ["data.size=32", "model.width=2", "model.shared_dim=4", "model.z_dim=8"]
    shape = [word for s in shape for word in ("--set", s)]
    gan, out, picture = tmp_path / "gan", tmp_path / "run", tmp_path / "data/test/red/000.png"
    assert run("pretrain", tmp_path / "data", "--out", gan, *shape, *quick) == 0
    assert run("train", tmp_path / "data", "--out", out, "--pretrained", gan, *quick) == 0
    arguments = ["--source", "none", "--out", tmp_path / "k", "--samples", 2, "--seed", 1, "--device", "cpu", "--quiet"]
    assert run("translate", out, picture, "--to", "green", *arguments) == 0
    assert (tmp_path / "k/sample-2/000.png").exists()
    assert run("translate", out, picture, "--to", "all", "--out", tmp_path / "all", "--device", "cpu", "--quiet") == 0
    assert Image.open(tmp_path / "all/000.png").size == (2 * 32 + 2, 2 * 32 + 2)
    assert run("train", tmp_path / "data", "--method", "deepi2i", "--out", tmp_path / "no", *shape, *quick) == 2
    assert run("train", tmp_path / "data", "--pretrained", tmp_path / "nothing", "--out", tmp_path / "no", *quick) == 2
    assert run("pretrain", tmp_path / "data", "--out", out, *quick) == 2


def test_import_commands_of_biggan_and_deepi2i(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The official files become models from the command line; names come from a file or are counted."""
    folder = shared / "parity/biggan"
    assert run("import", "biggan", folder / "G_ema.pth", folder / "D.pth", "--out", tmp_path / "gan.safetensors") == 0
    assert "12 classes" in capsys.readouterr().out
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"animal {i}" for i in range(12)))
    files = [shared / "parity/deepi2i" / f"{n}.pth" for n in ("G", "D", "E1", "A1")]
    assert run("import", "deepi2i", *files, "--domains", names, "--out", tmp_path / "m.safetensors") == 0
    assert run("import", "deepi2i", *files, "--domains", names, "--out", tmp_path / "m.safetensors", "--wrong") == 2
    assert run("import", "biggan", *files[:2], "--domains", "a,b", "--out", tmp_path / "x.safetensors") == 2


def test_a_run_keeps_the_domain_order_of_the_model_it_starts_from(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An imported model names its domains in its own order; training goes on with that order, though folders sort
    otherwise."""
    method, header = checkpoint.load_method(trained / "run")
    header["domains"] = ["red", "blue"]
    method.domains = ("red", "blue")
    model = checkpoint.write_model(tmp_path / "m.safetensors", method, header)
    command = ["train", trained / "data", "--out", tmp_path / "r", *FAST[-6:], "--quiet"]
    assert run(*command, "--start-from", model, "--steps", 1) == 0
    assert checkpoint.load_method(tmp_path / "r")[1]["domains"] == ["red", "blue"]
    assert run(*command, "--steps", 2, "--allow-change", "model.steps") == 0
    about = checkpoint.load_method(tmp_path / "r")[1]
    assert about["domains"] == ["red", "blue"] and about["step"] == 2
    assert about["extra"]["started_from"]["source"] == "m.safetensors"
