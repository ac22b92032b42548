"""A trained estimator on disk: without pickle whole or refused, with pickle and joblib as any other."""

import json
import math
import pickle
import re

import joblib
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from batchnorm import BatchNormClassifier, BatchnormError, BatchNormRegressor, InputError
from estimator_cases import outputs, same
from processes import run_afresh

X, Y = load_iris(return_X_y=True)
OPTIONS = {"hidden_layer_sizes": (6, 4), "epochs": 10, "random_state": 0, "dropout": 0.1}


@pytest.fixture
def classifier():
    return BatchNormClassifier(**OPTIONS, class_weight={"a": 1.0, "b": 2.0}).fit(X, np.array(["a", "b", "c"])[Y])


@pytest.fixture
def saved(classifier, tmp_path):
    path = tmp_path / "iris.safetensors"
    classifier.save(path)
    return path


CASES = {
    "classes": lambda: BatchNormClassifier(**OPTIONS, alpha=np.float64(0.1)).fit(X, Y),
    "strings": lambda: BatchNormClassifier(**OPTIONS).fit(X, np.array(["ä", "b", "c"])[Y]),
    "objects": lambda: BatchNormClassifier(**OPTIONS).fit(X, np.array(["ä", "b", "c"], dtype=object)[Y]),
    "truth": lambda: BatchNormClassifier(**OPTIONS).fit(X, Y > 1),
    "labels": lambda: BatchNormClassifier(**OPTIONS).fit(X, np.eye(3, dtype=int)[Y]),
    "weights": lambda: BatchNormClassifier(**OPTIONS, class_weight={0: 2.0, 1: 1}).fit(X, Y),
    "float32": lambda: BatchNormClassifier(**OPTIONS).fit(X.astype(np.float32), Y),
    "stopped": lambda: BatchNormRegressor(**OPTIONS, early_stopping=True, n_iter_no_change=np.inf).fit(X, Y),
    "values": lambda: BatchNormRegressor(**OPTIONS).fit(X, np.stack([Y, 1e6 * Y], 1)),
    "dates": lambda: BatchNormClassifier(**OPTIONS).fit(X, np.array(["2024-01-01", "2024-02-01"], "M8[ns]")[Y % 2]),
    "part": lambda: BatchNormRegressor(**OPTIONS, optimizer="sgd", momentum=0.0).partial_fit(X, Y),
    "frame": lambda: BatchNormRegressor(**OPTIONS).fit(load_iris(as_frame=True).data, Y),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_loaded_is_what_was_saved(case, tmp_path):
    estimator = CASES[case]()
    table = load_iris(as_frame=True).data if case == "frame" else X
    estimator.save(tmp_path / "saved")
    loaded = type(estimator).load(tmp_path / "saved")
    assert np.array_equal(outputs(loaded, table), outputs(estimator, table))
    assert loaded.get_params() == estimator.get_params()
    ours, theirs = vars(loaded), vars(estimator)
    assert set(ours) == set(theirs)
    for name in ours:
        if name in ("classes_", "feature_names_in_"):
            assert ours[name].dtype == theirs[name].dtype
            assert ours[name].tolist() == theirs[name].tolist()
        elif (name.endswith("_") and name != "network_") or name == "_multilabel":
            assert ours[name] == theirs[name], name
    # Otherwise the last bit of a prediction may differ: how a product is summed up depends on where its factors lie.
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.network_.state_dict().values())
    # And it goes on as if it had never been away.
    targets = estimator.predict(table)
    for one in (loaded, estimator):
        one.set_params(early_stopping=False).partial_fit(table, targets)
    assert same(loaded, estimator)
    loaded.save(tmp_path / "again")
    estimator.save(tmp_path / "once more")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "once more").read_bytes()


@pytest.mark.parametrize(
    "write", [lambda e, path: path.write_bytes(pickle.dumps(e)), joblib.dump], ids=["pickle", "joblib"]
)
@pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])
def test_pickle_and_joblib_work_too(write, estimator_class, tmp_path):
    estimator = estimator_class(**OPTIONS).fit(X, Y)
    write(estimator, tmp_path / "pickled")
    loaded = (
        joblib.load(tmp_path / "pickled") if write is joblib.dump else pickle.loads((tmp_path / "pickled").read_bytes())
    )
    assert np.array_equal(outputs(loaded, X), outputs(estimator, X))
    assert same(loaded.partial_fit(X, Y), estimator.partial_fit(X, Y))


def test_there_is_no_pickle_in_it(saved, tmp_path):
    with safetensors.safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["batchnorm estimator"])
        names = set(file.keys())
    assert header["format"] == 2
    assert json.loads(header["estimator"])["class"] == "BatchNormClassifier"
    assert {"network.0.weight", "inputs.mean", "generator"} <= names
    code = (
        "import pickle\n"
        "pickle.load = pickle.loads = pickle.Unpickler = None\n"
        "from batchnorm import BatchNormClassifier\n"
        f"print(BatchNormClassifier.load({str(saved)!r}).classes_.tolist())\n"
    )
    printed, _ = run_afresh(code, tmp_path)
    assert printed == "['a', 'b', 'c']\n"


def test_every_changed_byte_of_the_header_is_noticed(saved):
    content = saved.read_bytes()
    changed = saved.with_name("changed")
    size = 8 + int.from_bytes(content[:8], "little")
    for place in (*range(100), *range(100, size, 3)):  # no word in it is shorter than three letters
        changed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"is damaged|was not written by|has format"):
            BatchNormClassifier.load(changed)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_of_the_tensors_is_noticed(saved, place, change):
    content = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(place * (len(content) - start))] ^= change
    changed = saved.with_name("changed")
    changed.write_bytes(content)
    with pytest.raises(InputError, match="changed is damaged: its content does not have the checksum"):
        BatchNormClassifier.load(changed)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_noticed(saved, share):
    content = saved.read_bytes()
    damaged = saved.with_name("damaged")
    damaged.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        BatchNormClassifier.load(damaged)


def rewritten(saved, change, **header_too):
    """Write a file with a good checksum and other content, as someone who means harm could."""
    from batchnorm.files import checksum

    with safetensors.safe_open(saved, framework="pt") as file:
        header = json.loads(file.metadata()["batchnorm estimator"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    described = json.loads(header["estimator"])
    change(described, tensors)
    text = json.dumps(described)
    header |= {"estimator": text, "sha256": checksum(text, tensors)} | header_too
    path = saved.with_name("rewritten")
    path.write_bytes(safetensors.torch.save(tensors, {"batchnorm estimator": json.dumps(header)}))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda described, tensors: tensors.pop("network.0.weight"),
        lambda described, tensors: tensors.update({"network.0.weight": torch.zeros(3, 3)}),
        lambda described, tensors: tensors.pop("generator"),
        lambda described, tensors: tensors.update(generator=torch.zeros(3, dtype=torch.uint8)),
        lambda described, tensors: described["architecture"].update(hidden_layer_sizes=[10**9, 10**9]),
        lambda described, tensors: described["architecture"].update(activation="step"),
        lambda described, tensors: described["parameters"].update(unknown=1),
        lambda described, tensors: described["parameters"].update(tol={"number": "1e9"}),
        lambda described, tensors: described["parameters"].update(
            random_state={"RandomState": [625, 0, 0.0, *[1] * 624]}
        ),
        lambda described, tensors: described["parameters"].update(random_state={"RandomState": [9, 0, 0.0, *[1] * 9]}),
        lambda described, tensors: described["parameters"].update(
            random_state={"RandomState": [9, 0, 0.0, *[-1] * 624]}
        ),
        lambda described, tensors: described.pop("arrays"),
        lambda described, tensors: described["attributes"].pop("n_outputs_"),
        lambda described, tensors: described["arrays"].update(classes_={"dtype": "no type", "values": []}),
        lambda described, tensors: described["arrays"].update(classes_={"dtype": "<U500000000", "values": list("abc")}),
        lambda described, tensors: described["arrays"].update(classes_={"dtype": "<i8", "values": [1, 2, 10**30]}),
        lambda described, tensors: described["arrays"].update(classes_={"dtype": "<i8", "values": [1]}),
        lambda described, tensors: described["arrays"].pop("classes_"),
        lambda described, tensors: described["attributes"].pop("_multilabel"),
        lambda described, tensors: described["attributes"].update(n_outputs_="3"),
        lambda described, tensors: described["attributes"].pop("loss_curve_"),
        lambda described, tensors: described["counts"].update(inputs="many"),
        lambda described, tensors: described["parameters"].update(alpha=-5),
        lambda described, tensors: described["state"].update(epochs=None),
        lambda described, tensors: described.update(state=3),
        lambda described, tensors: described.pop("class"),
        lambda described, tensors: tensors.update({"inputs.mean": torch.zeros(1, dtype=torch.float64)}),
        lambda described, tensors: tensors.update({"inputs.mean": torch.full((4,), torch.nan, dtype=torch.float64)}),
        lambda described, tensors: tensors.update({"network.1.weight": torch.ones(6, dtype=torch.bfloat16)}),
        lambda described, tensors: tensors.update(
            {name: tensor.half() for name, tensor in tensors.items() if tensor.is_floating_point() and "net" in name}
        ),
    ],
)
def test_content_that_does_not_fit_is_refused(saved, change):
    with pytest.raises(InputError, match=r"rewritten does not fit this version of batchnorm: "):
        BatchNormClassifier.load(rewritten(saved, change))


@pytest.mark.parametrize("text", [5, "no JSON", "\ud800", "[" * 100_000, "1" * 5000, "[1]", "null"], ids=range(7))
def test_a_description_that_is_none_is_refused(saved, text, tmp_path):
    from batchnorm.files import checksum

    digest = "" if text == "\ud800" else checksum(str(text), {})
    header = json.dumps({"format": 2, "sha256": digest, "estimator": text})
    safetensors.torch.save_file({}, tmp_path / "other", {"batchnorm estimator": header})
    with pytest.raises(InputError, match=r"other (does not fit|is damaged)"):
        BatchNormClassifier.load(tmp_path / "other")


def test_a_file_cannot_put_its_own_into_the_estimator(saved):
    def change(described, tensors):
        described["attributes"]["predict"] = "mine"
        described["arrays"]["fit"] = {"dtype": "<i8", "values": [1]}

    loaded = BatchNormClassifier.load(rewritten(saved, change))
    assert {"predict", "fit"}.isdisjoint(vars(loaded))


def test_foreign_files_are_refused(saved, tmp_path):
    with pytest.raises(InputError, match=r"holds a BatchNormClassifier: load it with BatchNormClassifier\.load"):
        BatchNormRegressor.load(saved)
    with pytest.raises(InputError, match="is not a file"):
        BatchNormClassifier.load(tmp_path)
    with pytest.raises(InputError, match="nothing is not a file"):
        BatchNormClassifier.load(tmp_path / "nothing")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="foreign is damaged or not a safetensors file"):
        BatchNormClassifier.load(foreign)
    safetensors.torch.save_file({"a": torch.zeros(3)}, foreign)
    with pytest.raises(InputError, match="foreign was not written by an estimator's save"):
        BatchNormClassifier.load(foreign)
    safetensors.torch.save_file({"a": torch.zeros(3)}, foreign, {"batchnorm estimator": '{"format": 99}'})
    with pytest.raises(InputError, match="foreign has format 99, this version of batchnorm reads 1"):
        BatchNormClassifier.load(foreign)
    for header in ("no JSON", "[1]"):
        safetensors.torch.save_file({"a": torch.zeros(3)}, foreign, {"batchnorm estimator": header})
        with pytest.raises(InputError, match="foreign is damaged"):
            BatchNormClassifier.load(foreign)


def test_what_cannot_be_saved_says_so(classifier, tmp_path):
    with pytest.raises(NotFittedError):
        BatchNormClassifier().save(tmp_path / "file")
    classifier.set_params(random_state=np.random.RandomState(np.random.PCG64(0)))
    with pytest.raises(ValueError, match=r"random_state=RandomState\(PCG64\).* has no form in a file: set it to"):
        classifier.save(tmp_path / "file")
    with pytest.raises(BatchnormError, match=r"there is no folder .*no folder to write file into: make it first"):
        classifier.set_params(random_state=0).save(tmp_path / "no folder" / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("used", [0, 1, 700])
def test_a_random_state_goes_on_where_it_was(used, tmp_path):
    state = np.random.RandomState(3)
    estimator = BatchNormRegressor(**OPTIONS | {"random_state": state}).fit(X, Y)
    state.normal(size=used)  # an odd number leaves one normal number over
    estimator.save(tmp_path / "file")
    loaded = BatchNormRegressor.load(tmp_path / "file")
    assert same(loaded.fit(X, Y), estimator.fit(X, Y))
    assert loaded.random_state.normal() == state.normal()


def test_what_is_infinite_is_strict_json(tmp_path):
    estimator = BatchNormRegressor(**OPTIONS, n_iter_no_change=np.inf, tol=-np.inf).fit(X, Y)
    estimator.loss_curve_[0] = np.nan  # as a score may be
    estimator.save(tmp_path / "file")
    with safetensors.safe_open(tmp_path / "file", framework="pt") as file:
        text = json.loads(file.metadata()["batchnorm estimator"])["estimator"]
    assert not re.search(r"Infinity|NaN", text)
    loaded = BatchNormRegressor.load(tmp_path / "file")
    assert loaded.n_iter_no_change == np.inf
    assert loaded.tol == -np.inf
    assert np.isnan(loaded.loss_curve_[0])
    assert loaded.loss_curve_[1:] == estimator.loss_curve_[1:]


def test_a_file_of_the_first_format_may_be_infinite(saved):
    """It was no strict JSON, and its `max_iter` was a length."""

    def change(described, tensors):
        described["parameters"] |= {"n_iter_no_change": math.inf, "max_iter": 10}
        del described["parameters"]["epochs"], described["bound"]

    loaded = BatchNormClassifier.load(rewritten(saved, change, format=1))
    assert (loaded.n_iter_no_change, loaded.epochs, loaded.max_iter) == (math.inf, 10, "auto")
    with pytest.raises(InputError, match=r"does not fit this version of batchnorm: .*Infinity is not JSON"):
        BatchNormClassifier.load(rewritten(saved, change))


def test_saving_replaces_a_file_wholly_or_not_at_all(classifier, saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BatchnormError, match="cannot be written: No space left on device"):
        classifier.partial_fit(X, np.array(["a", "b", "c"])[Y]).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
