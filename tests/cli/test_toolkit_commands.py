"""The toolkit's commands as a person uses them, on a model of their own and on a run folder of ours."""

import errno
import gc
import io
import json
import os
import pickle
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import batchnorm as bn

SOURCE = """
    import torch
    from torch import nn

    def build_model():
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        )

    def build_double():
        return build_model().double()

    def leave():
        raise SystemExit(0)

    def needs(width, *, depth=1):
        return build_model()

    def speaks():
        print("building")
        return build_model()

    class Speaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = build_model()

        def forward(self, x):
            print("running")
            return self.model(x)

    class Leaving(Speaking):
        def forward(self, x):
            raise SystemExit(5)

    class Pairs(Speaking):
        def forward(self, x):
            return self.model(x), x

    def build_flat():
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

    def build_embedding():
        return nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2))

    class Zoo:
        model = build_model()

    def nothing():
        return 3

    async def later():
        return build_model()

    def asks():
        input("which? ")
        return build_model()

    def broken():
        import torchvision_that_is_not_there
"""


@pytest.fixture
def folder(command, tmp_path, monkeypatch):
    """A folder with a module of models, weights, inputs and labels."""
    name = f"models_of_{tmp_path.name.replace('-', '_')}"  # a module is imported once per process
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "w.pt")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(3, 2, (150, 2, 8, 8)))
    np.save(tmp_path / "y.npy", rng.integers(0, 3, 150).astype(np.int32))
    return name, model


def test_a_model_is_diagnosed_recalibrated_and_healthy(command, folder, tmp_path):
    name, model = folder
    words = (f"{name}:build_model", "--data", "x.npy")
    code, out, err = command("diagnose", *words, "--weights", "weights.safetensors", "--labels", "y.npy")
    assert (code, err) == (3, "")
    assert "never-updated" in out
    assert "1 batch-norm layer: 1 error; loss " in out.replace("\n", " ")
    code, out, err = command("recalibrate", *words, "--weights", "weights.safetensors", "--out", "better.safetensors")
    assert (code, err) == (0, "")
    assert out.startswith("1 layer recalibrated in 1 pass over the data\nlargest shift of a mean: ")
    assert out.endswith("weights written to better.safetensors\n")
    bn.recalibrate(model, [torch.from_numpy(np.load("x.npy")).float()])
    found = safetensors.torch.load_file("better.safetensors")
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)
    code, out, err = command("diagnose", *words, "--weights", "better.safetensors", "--html", "report.html")
    assert (code, err) == (0, "")
    assert "nothing wrong was found" in out
    assert "<table>" in (tmp_path / "report.html").read_text()


def test_a_model_is_folded(command, folder):
    name, model = folder
    bn.recalibrate(model, [torch.from_numpy(np.load("x.npy")).float()])
    torch.save(model.state_dict(), "trained.pt")
    code, out, err = command(
        "fold", f"{name}:build_model", "--weights", "trained.pt", "--data", "x.npy", "--out", "folded.safetensors"
    )
    assert (code, err) == (0, "")
    assert out.startswith("1 of 1 batch norms folded")
    lean = bn.fold(model.eval(), torch.zeros(2, 2, 8, 8))
    lean.load_state_dict(safetensors.torch.load_file("folded.safetensors"))
    x = torch.randn(5, 2, 8, 8)
    torch.testing.assert_close(lean(x), model(x), rtol=1e-4, atol=1e-5)


def test_json(command, folder):
    name, _ = folder
    words = (f"{name}:Zoo.model", "--weights", "w.pt", "--data", "x.npy", "--json")
    code, out, _ = command("diagnose", *words)
    assert code == 3
    assert json.loads(out)["findings"][0]["cause"] == "never-updated"
    code, out, _ = command("recalibrate", *words, "--out", "new.safetensors", "--method", "one-pass")
    assert code == 0
    done = json.loads(out)
    assert (done["n_passes"], done["unreached"], list(done["changes"])) == (1, [], ["1"])
    code, out, _ = command("fold", *words, "--out", "folded.safetensors")
    assert json.loads(out)["folded"] == {"1": "0"}


def test_json_of_what_is_no_number_is_json(command, folder):
    name, model = folder
    model[1].running_mean[0] = torch.nan
    safetensors.torch.save_file(model.state_dict(), "nan.safetensors")
    words = (f"{name}:build_model", "--weights", "nan.safetensors", "--data", "x.npy", "--json")

    def strict(text):
        return json.loads(text, parse_constant=lambda constant: pytest.fail(constant))

    assert strict(command("diagnose", *words)[1])["gap"]["running"] is None
    assert (
        strict(command("recalibrate", *words, "--out", "new.safetensors")[1])["changes"]["1"]["largest_shift"] is None
    )


def test_the_severity_that_fails_can_be_chosen(command, folder):
    name, model = folder
    bn.recalibrate(model, [torch.from_numpy(np.load("x.npy")).float()])
    with torch.no_grad():
        model[1].weight[0] = 0  # a warning
    safetensors.torch.save_file({f"_orig_mod.{k}": v for k, v in model.state_dict().items()}, "w.safetensors")
    words = ("diagnose", f"{name}:build_model", "--weights", "w.safetensors", "--data", "x.npy")
    assert command(*words)[0] == 3
    assert command(*words, "--fail-on", "error")[0] == 0


def test_how_a_file_is_cut_is_no_fault_of_the_model(command, folder):
    name, model = folder
    x = np.load("x.npy")[:3]
    np.save("few.npy", x)
    bn.recalibrate(model.double(), [torch.from_numpy(x)])
    safetensors.torch.save_file(model.state_dict(), "w.safetensors")
    words = ("diagnose", f"{name}:build_double", "--weights", "w.safetensors", "--data", "few.npy")
    assert command(*words)[0] == 0
    code, out, _ = command(*words, "--batch-size", 3)
    assert code == 3
    assert "tiny-batch" in out


def test_a_run_folder_needs_no_data(command):
    command("train", "digits", "--epochs", 20, "--hidden-layer-sizes", "16", "--out", "run", "--quiet")
    code, out, err = command("diagnose", "run")
    assert (code, err) == (0, "")
    assert "2 batch-norm layers: nothing wrong was found; loss " in out.replace("\n", " ")
    assert command("recalibrate", "run", "--out", "exact.safetensors")[0] == 0
    population = safetensors.torch.load_file("run/population.safetensors")
    exact = safetensors.torch.load_file("exact.safetensors")
    for key, tensor in population.items():
        torch.testing.assert_close(exact[key], tensor, rtol=1e-5, atol=1e-6)
    code, out, _ = command("fold", "run", "--out", "folded.safetensors")
    assert code == 0
    assert out.startswith("2 of 2 batch norms folded")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch was-run",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothere"], "'nothere' is neither a run folder nor of the form package.module:name, such as"),
        (["nothere:build"], "there is no module 'nothere', neither in "),
        (["MODULE:absent"], "has no 'absent'"),
        (["MODULE:nothing"], "gave a int, expected a torch.nn.Module"),
        (["MODULE:leave"], "MODULE:leave ended the process (exit code 0), expected a model"),
        (["MODULE:build_model", "--data", "x.npy", "--device", "nowhere"], "--device nowhere: "),
        (["MODULE:build_model", "--data", "x.npy", "--html", "no/x.html"], "there is no folder no to write x.h"),
        (["MODULE:build_model"], "there are no data: name a .npy file of inputs, such as --data x.npy"),
        (["MODULE:build_model", "--data", "hostile.npy"], "hostile.npy is not an array that numpy.save has written"),
        (["MODULE:build_model", "--data", "text.npy"], "text.npy holds <U1 (1,), expected an array of numbers"),
        (["MODULE:build_model", "--data", "x.npy", "--labels", "x.npy"], "expected classes (examples,) as whole"),
        (["MODULE:build_model", "--data", "x.npy", "--labels", "few.npy"], "few.npy has 2 labels for the 150 examples"),
        (["MODULE:build_model", "--data", "x.npy", "--weights", "x.npy"], "x.npy holds more than tensors, or is dam"),
        (["MODULE:build_model", "--data", "x.npy", "--weights", "hostile.pt"], "hostile.pt holds more than tensors"),
        (["MODULE:build_model", "--data", "x.npy", "--weights", "cut.safetensors"], "cut.safetensors cannot be read"),
        (["MODULE:build_model", "--data", "x.npy", "--weights", "other.safetensors"], "do not fit the model: "),
        ([".", "--data", "x.npy", "--weights", "w.pt"], "is a run folder, which has weights of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_the_user_gave_wrong_is_one_line_and_exit_code_2(words, message, command, folder, tmp_path):
    name, _ = folder
    np.save("few.npy", np.array([0, 1]))
    np.save("text.npy", np.array(["a"]))
    np.save("hostile.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    (tmp_path / "hostile.pt").write_bytes(pickle.dumps(Hostile()))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:-9])
    safetensors.torch.save_file(nn.Linear(2, 2).state_dict(), "other.safetensors")
    code, out, err = command("diagnose", *[word.replace("MODULE", name) for word in words])
    assert (code, out) == (2, "")
    assert err.startswith("batchnorm: ")
    assert err.count("\n") == 1
    assert message.replace("MODULE", name) in err
    assert not (tmp_path / "was-run").exists()


def test_a_missing_file_and_a_missing_import_are_one_line_too(command, folder):
    name, _ = folder
    code, _, err = command("diagnose", f"{name}:build_model", "--data", "absent.npy")
    assert (code, err) == (2, "batchnorm: absent.npy is missing\n")
    code, _, err = command("diagnose", f"{name}:broken", "--data", "x.npy")
    assert code == 1
    assert "torchvision_that_is_not_there" in err
    assert err.count("\n") == 1


def test_a_failure_leaves_no_file(command, folder, tmp_path):
    name, _ = folder
    np.save("nan.npy", np.full((4, 2, 8, 8), np.nan))
    code, _, err = command("recalibrate", f"{name}:build_model", "--data", "nan.npy", "--out", "new.safetensors")
    assert code == 2
    assert "holds NaN or infinite values" in err
    assert not (tmp_path / "new.safetensors").exists()


@pytest.fixture
def files(folder):
    """Arrays and weights that are none, or not what they should be."""
    _, model = folder
    state = model.state_dict()
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    arrays = {
        "flat": x, "wide": np.zeros((20, 5), np.float32), "one": x[:, 0], "none": x[:0], "complex": x.astype(complex),
        "fields": np.zeros(20, "f4,f4"), "nine": np.full(20, 9), "ignored": np.full(20, -100),
        "beyond": np.full(20, 2**63, np.uint64), "one-hot": np.eye(20), "real": np.zeros(20),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(name, array)
    np.save("objects.npy", np.array([{}] * 20), allow_pickle=True)
    np.savez("archive.npz", x=x)
    archive = Path("archive.npz").read_bytes()
    Path("archive.npy").write_bytes(archive)
    Path("cut-archive.npy").write_bytes(archive[:60])
    for name, dictionary in {
        "claim": "(1000000000000, 4)",
        "deep": "(" * 4000,
        "long": "(1, 4)" + " " * 20_000,
    }.items():
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {dictionary}}}\n".encode()
        Path(f"{name}.npy").write_bytes(b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header + bytes(16))
    torch.save({key: t.to(torch.complex64) if t.is_floating_point() else t for key, t in state.items()}, "complex.pt")
    torch.save(model, "whole.pt")
    torch.save([1], "list.pt")
    torch.save({1: 2}, "numbers.pt")
    torch.save(state, "w.pt")
    Path("cut.pt").write_bytes(Path("w.pt").read_bytes()[:700])
    Path("empty.pt").write_bytes(b"")
    with warnings.catch_warnings(action="ignore"):  # that scripting has a successor
        torch.jit.script(nn.Linear(2, 2)).save("script.pt")
    Path("claim.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    Path("folder").mkdir()
    os.mkfifo("fifo")


BUILD, FLAT = "MODULE:build_model --data x.npy", "MODULE:build_flat --data flat.npy"
ADVICE = ("allow_pickle", "weights_only", "max_header_size", "Traceback", "torch.load")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        # Inputs.
        ("MODULE:build_flat --data wide.npy", "MODULE:build_flat cannot take the inputs in wide.npy: "),
        ("MODULE:build_model --data flat.npy", "MODULE:build_model cannot take the inputs in flat.npy: "),
        ("MODULE:build_embedding --data flat.npy", "MODULE:build_embedding cannot take the inputs in flat.npy: "),
        ("MODULE:build_flat --data one.npy", "one.npy has shape (20,), expected (examples, features)"),
        ("MODULE:build_flat --data none.npy", "none.npy holds float32 (0, 4), expected an array of numbers"),
        ("MODULE:build_flat --data complex.npy", "complex.npy holds complex128 (20, 4), expected"),
        ("MODULE:build_flat --data fields.npy", "fields.npy holds [('f0', '<f4'), ('f1', '<f4')] (20,), expected"),
        ("MODULE:build_flat --data objects.npy", "objects.npy is not an array that numpy.save has written, holds Pyt"),
        ("MODULE:build_flat --data archive.npz", "archive.npz is an archive of arrays (.npz), expected one array"),
        ("MODULE:build_flat --data archive.npy", "archive.npy is an archive of arrays (.npz), expected one array"),
        ("MODULE:build_flat --data cut-archive.npy", "cut-archive.npy is an archive of arrays (.npz)"),
        ("MODULE:build_flat --data claim.npy", "claim.npy is not an array"),
        ("MODULE:build_flat --data deep.npy", "deep.npy is not an array"),
        ("MODULE:build_flat --data long.npy", "long.npy is not an array"),
        ("MODULE:build_flat --data folder", "folder is a folder, expected a file"),
        ("MODULE:build_flat --data fifo", "fifo is a pipe, expected a file"),
        ("MODULE:build_flat --data /dev/zero", "/dev/zero is a device, expected a file"),
        # Labels.
        (f"{FLAT} --labels absent.npy", "absent.npy is missing"),
        (f"{FLAT} --labels nine.npy", "label 9 among the examples, but the model has 2 outputs"),
        (f"{FLAT} --labels ignored.npy", "ignored.npy has labels from -100 to -100, expected classes from 0 on"),
        (f"{FLAT} --labels beyond.npy", "to 9223372036854775808, expected classes from 0 on"),
        (f"{FLAT} --labels one-hot.npy", "as whole numbers: use .argmax(1) where they are one-hot"),
        (f"{FLAT} --labels real.npy", "real.npy has shape (20,) of float64, expected classes"),
        ("MODULE:Pairs --data x.npy --labels y.npy", "the model's outputs are tuple, expected logits"),
        # Weights.
        (f"{BUILD} --weights absent.pt", "absent.pt is missing"),
        (f"{BUILD} --weights /dev/zero", "/dev/zero is a device, expected a file"),
        (f"{BUILD} --weights fifo", "fifo is a pipe, expected a file"),
        (f"{BUILD} --weights folder", "folder is a folder, expected a file"),
        (f"{BUILD} --weights complex.pt", "complex.pt do not fit the model: 0.weight is torch.complex64, not torch.fl"),
        (f"{BUILD} --weights whole.pt", "whole.pt holds more than tensors, or is damaged: save the state_dict"),
        (f"{BUILD} --weights list.pt", "list.pt holds a list, expected weights by name"),
        (f"{BUILD} --weights numbers.pt", "the weights in numbers.pt do not fit the model: "),
        (f"{BUILD} --weights cut.pt", "cut.pt holds more than tensors, or is damaged"),
        (f"{BUILD} --weights empty.pt", "empty.pt holds more than tensors, or is damaged"),
        (f"{BUILD} --weights script.pt", "script.pt holds more than tensors, or is damaged"),
        (f"{BUILD} --weights claim.safetensors", "claim.safetensors cannot be read as weights: "),
        # Models.
        ("MODULE:needs --data x.npy", "MODULE:needs cannot be called without arguments (missing a required argument"),
        ("MODULE:nn.Linear --data x.npy", "MODULE:nn.Linear cannot be called without arguments"),
        ("..m:b", "'..m:b' is neither a run folder nor of the form"),
        ("MODULE:", "'MODULE:' is neither a run folder nor of the form"),
        (":b", "':b' is neither a run folder nor of the form"),
        ("MODULE:a:b", "'MODULE:a:b' is neither a run folder nor of the form"),
        ("MODULE:Zoo..model", "'MODULE:Zoo..model' is neither a run folder nor of the form"),
        ("MODULE.py:build_model", "there is no module 'MODULE.py'"),
        ("leaving:b", "leaving:b ended the process (exit code 7), expected a model"),
        ("MODULE:Leaving --data x.npy", "MODULE:Leaving ended the process (exit code 5), expected a model"),
    ],
)
def test_what_a_file_or_a_model_is_not_is_one_line_and_exit_code_2(words, message, command, folder, tmp_path):
    name, _ = folder
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(7)\n")
    code, out, err = command("diagnose", *words.replace("MODULE", name).split())
    assert (code, out) == (2, "")
    assert err.startswith("batchnorm: ")
    assert err.count("\n") == 1
    assert message.replace("MODULE", name) in err
    assert not any(word in err for word in ADVICE)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "change",
    [np.asfortranarray, lambda x: x.astype(">f8"), lambda x: x.astype(np.longdouble), lambda x: x.astype(np.float16)],
)
def test_numbers_are_read_however_they_are_stored(change, command, folder):
    name, _ = folder
    x = np.load("flat.npy").astype(np.float16).astype(np.float32)
    np.save("plain.npy", x)
    np.save("changed.npy", change(x))
    words = ("recalibrate", f"{name}:build_flat", "--weights", "flat.safetensors")
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    safetensors.torch.save_file(flat.state_dict(), "flat.safetensors")
    for array in ("plain", "changed"):
        assert command(*words, "--data", f"{array}.npy", "--out", f"{array}.safetensors")[0] == 0
    assert Path("plain.safetensors").read_bytes() == Path("changed.safetensors").read_bytes()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">u2", "uint64"])
def test_whole_numbers_are_computed_with_or_looked_up(dtype, command, folder):
    name, _ = folder
    np.save("whole.npy", np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 9, (20, 4)).astype(dtype))
    assert command("diagnose", f"{name}:build_flat", "--data", "whole.npy", "--fail-on", "error")[0] in (0, 3)
    if dtype != "bool":
        assert command("diagnose", f"{name}:build_embedding", "--data", "whole.npy")[0] in (0, 3)


@pytest.mark.parametrize("model", ["speaks", "Speaking"])
def test_what_a_model_prints_is_not_in_the_result(model, command, folder):
    name, _ = folder
    code, out, err = command("recalibrate", f"{name}:{model}", "--data", "x.npy", "--out", "new.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["out"] == "new.safetensors"
    assert {"building", "running"} & set(err.split())


@pytest.mark.parametrize("verb", ["fold", "recalibrate"])
def test_what_is_read_is_not_written_over(verb, command, folder, tmp_path):
    name, _ = folder
    (tmp_path / "link").symlink_to("weights.safetensors")
    before = {path: path.read_bytes() for path in (tmp_path / "weights.safetensors", tmp_path / "x.npy")}
    for out in ("weights.safetensors", "./x.npy", "link", tmp_path / "x.npy"):
        code, _, err = command(
            verb, f"{name}:build_model", "--weights", "weights.safetensors", "--data", "x.npy", "--out", out
        )
        assert (code, err) == (2, f"batchnorm: --out {Path(out)} is a file that is read: choose another name\n")
    assert {path: path.read_bytes() for path in before} == before


def test_a_runs_own_files_are_not_written_over(command):
    command("train", "digits", "--epochs", 1, "--hidden-layer-sizes", "4", "--out", "run", "--quiet")
    before = Path("run/weights.safetensors").read_bytes()
    for words in (
        ("fold", "run", "--out", "run/weights.safetensors"),
        ("recalibrate", "run", "--out", "run/../run/weights.safetensors"),
        ("diagnose", "run", "--html", "run/report.html"),
    ):
        code, _, err = command(*words)
        assert code == 2
        assert "whose files are its own: choose one outside of it" in err
    assert Path("run/weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("option", ["--weights", "--data", "--out", "--html", "--labels"])
def test_an_empty_path_is_no_folder(option, command):
    name, also = ("diagnose", ()) if option in ("--html", "--labels") else ("fold", ("--out", "x"))
    code, _, err = command(name, "models:build", *also, option, "")
    assert (code, err) == (2, f"batchnorm: Invalid value for '{option}': it is empty, expected a path (see --help)\n")


@pytest.mark.parametrize("words", [("fold", "", "--out", "x"), ("runs", ""), ("evaluate", "")])
def test_an_empty_argument_is_no_folder(words, command):
    code, _, err = command(*words)
    assert code == 2
    assert "it is empty, expected a " in err


def test_a_builder_that_asks_for_input_is_told(command, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = command("fold", f"{folder[0]}:asks", "--out", "x.safetensors")
    assert code == 2
    assert err.endswith(
        f"batchnorm: {folder[0]}:asks asked for input, of which there is none: name what builds a model by itself\n"
    )


def test_an_async_builder_is_refused(command, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, _, err = command("fold", f"{folder[0]}:later", "--out", "x.safetensors")
        gc.collect()
    assert (code, err) == (
        2,
        f"batchnorm: {folder[0]}:later is an async function, expected one that returns a torch.nn.Module\n",
    )


def test_a_disk_that_is_full_under_the_weights_is_named(command, folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("batchnorm.files.os.fsync", full)
    code, _, err = command("fold", f"{folder[0]}:build_model", "--out", "x.safetensors")
    assert (code, err) == (1, "batchnorm: x.safetensors: No space left on device\n")


def test_a_working_folder_that_is_gone_is_told(command, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (("runs",), ("train", "digits"), ("datasets",)):
        code, _, err = command(*words)
        assert code == 2
        assert err.startswith(
            "batchnorm: the folder that you are in cannot be used (No such file or directory): go to "
        )
    assert command("--version")[0] == 0
