"""The toolkit's commands as a person uses them, on a model of their own and on a run folder of ours."""

import json
import os
import pickle
import textwrap

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

    class Zoo:
        model = build_model()

    def nothing():
        return 3

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
    assert (code, err) == (1, "batchnorm: absent.npy: No such file or directory\n")
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
