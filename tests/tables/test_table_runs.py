"""Training on tables of one's own, and predicting others, as a person does it."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import batchnorm as bn
from batchnorm.tables import TableRun
from table_cases import TABLES, table_file, write

SHORT = ("--epochs", 3, "--hidden-layer-sizes", "8")


def train(command, path, target, *options):
    code, out, err = command("train", path, "--target", target, *SHORT, *options, "--out", "run", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_packages_ship(command, tmp_path, name):
    load, target, task, _, options = TABLES[name]
    path, frame = table_file(name, tmp_path), load()
    said = train(command, path, target, *options)
    assert said["task"] == task
    assert said["training_rows"] + said["test"]["rows"] == frame[target].notna().sum()
    dropped = said["profile"]["dropped"]
    assert dropped == options[1:] * (options[:1] == ["--drop"])
    assert [column["name"] for column in said["profile"]["columns"]] == [c for c in frame.columns if c not in dropped]
    run = bn.load_run("run")
    assert isinstance(run, TableRun)

    code, out, err = command("evaluate", "run", "--json")
    assert (code, err) == (0, "")
    assert {**json.loads(out), "run": 0, "split": 0} == {"run": 0, "split": 0, **said["test"]}

    assert command("predict", "run", path, "-o", "out.parquet", "--quiet") == (0, "", "")
    predictions = pd.read_parquet("out.parquet")
    again = bn.tables.read_tables([path])
    np.testing.assert_array_equal(predictions["prediction"], run.predict(again))
    if task == "classification":
        probabilities = predictions[[f"probability_{label}" for label in run.estimator.classes_]]
        np.testing.assert_allclose(probabilities, run.predict_proba(again), rtol=1e-4, atol=1e-6)


def test_a_table_trains_as_the_estimator_would(command, tmp_path):
    """With its defaults, on the training part alone."""
    path = table_file("iris", tmp_path)
    code, _, err = command("train", path, "--target", "target", "--out", "run", "--quiet")
    assert (code, err) == (0, "")
    run, frame = bn.load_run("run"), pd.read_csv(path)
    from sklearn.model_selection import train_test_split

    training, test = train_test_split(np.arange(150), test_size=30, random_state=0, stratify=frame["target"])
    ours = bn.BatchNormClassifier(random_state=0)
    ours.fit(frame.iloc[np.sort(training), :4], frame["target"].iloc[np.sort(training)])
    inputs = frame.iloc[test, :4]
    np.testing.assert_allclose(run.predict_proba(frame), ours.predict_proba(frame.iloc[:, :4]), rtol=1e-4, atol=1e-6)
    assert run.results["test"]["accuracy"] == ours.score(inputs, frame["target"].iloc[test])


def test_what_is_printed(command, tmp_path):
    code, out, err = command("train", table_file("weather", tmp_path), "--target", "weather", *SHORT, "--out", "run")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "weather: classification, as it has string values; --task says otherwise"
    assert lines[1] == "1,461 rows, 6 columns"
    assert "  date           time, 1,461 different" in lines
    assert "  weather        text, 5 different  (target)" in lines
    assert "classes: sun 48.9%, fog 28.1%, rain 17.7%, drizzle 3.7%, snow 1.6%" in lines
    assert lines[-2].startswith("test accuracy 0.")
    assert lines[-1] == "run folder run"
    code, out, err = command("evaluate", "run")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == lines[-2]
    assert out.splitlines()[1] == "label \\ prediction, test part"


def test_run_folders_in_runs_are_named_after_the_table(command, tmp_path):
    for n in ("", "-2"):
        out = command("train", table_file("iris", tmp_path), "--target", "target", *SHORT)[1]
        assert out.splitlines()[-1] == f"run folder runs/iris-target{n}"
    files = sorted(path.name for path in (tmp_path / "runs" / "iris-target").iterdir())
    assert files == ["environment.json", "estimator.safetensors", "layers.jsonl", "results.json", "table.json"]
    same = [
        (tmp_path / "runs" / name / "estimator.safetensors").read_bytes() for name in ("iris-target", "iris-target-2")
    ]
    assert same[0] == same[1]


def test_runs_on_tables_are_listed_beside_others(command, tmp_path):
    for name, target in (("iris", "target"), ("diabetes", "target")):
        command("train", table_file(name, tmp_path), "--target", target, *SHORT)
    command("train", "digits", *SHORT)
    code, out, err = command("runs")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[:4] for row in rows] == [
        ["runs/digits-classic-seed0", "digits", "finished", rows[0][3]],
        ["runs/diabetes-target", "diabetes.arrow", "finished", "–"],
        ["runs/iris-target", "iris.csv", "finished", "–"],
    ]
    assert rows[1][4] == "R²"
    (tmp_path / "runs" / "iris-target" / "results.json").write_text("{}")
    code, out, err = command("runs", "runs/iris-target")
    assert code == 1
    assert "damaged" in out


def test_a_table_of_ones_own_for_the_test(command, tmp_path):
    frame = pd.DataFrame({"a": np.arange(60.0), "b": ["x", "y"] * 30, "c": (np.arange(60) % 3 == 0)})
    write(frame.head(40), tmp_path / "first.csv")
    write(frame.tail(20).assign(d=1)[["c", "d", "b", "a"]], tmp_path / "second.csv")
    said = train(command, "first.csv", "c", "--test", "second.csv")
    assert (said["training_rows"], said["test"]["rows"], said["split"]) == (40, 20, None)
    assert json.loads(command("evaluate", "run", "--json")[1])["rows"] == 20
    assert json.loads(command("evaluate", "run", "--split", "train", "--json")[1])["rows"] == 40
    assert command("evaluate", "run", "--split", "validation")[0] == 2


@pytest.mark.parametrize("in_memory", [2**29, 100])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": ["text", "1"]}, "column 'a' holds texts, expected numbers"),
        ({"a": [1, np.inf]}, "Input X contains infinity in column 'a'"),
        ({"t": ["soon", "later"]}, "column 't' holds texts, expected dates or times"),
        ({"t": ["2020-01-01T00:00:00Z"] * 2}, "column 't' has the time zone UTC, and had none in training"),
        ({"d": ["2020-01-01"] * 2}, "column 'd' holds times, expected durations"),
    ],
)
def test_rows_to_test_on_that_cannot_be_predicted(command, tmp_path, other, said, in_memory, monkeypatch):
    """It is said before the training, which would be lost."""
    monkeypatch.setattr("batchnorm.tables.keeping.IN_MEMORY", in_memory)
    monkeypatch.setattr("batchnorm.tables.fitting._fitted", None)
    columns = {"a": [1.5, 2], "t": ["2020-01-01", "2021-02-03"], "d": ["10:00", "11:30"], "c": [1, 2], "y": [1, 2]}
    pd.DataFrame(columns | {"c": ["x", "z"]}).sample(60, replace=True, random_state=0).to_csv("t.csv", index=False)
    pd.DataFrame(columns | other).to_csv("other.csv", index=False)
    code, _, err = command("train", "t.csv", "--target", "y", "--test", "other.csv", "--out", "run")
    assert code == 2
    assert err.startswith(f"batchnorm: the rows to test on cannot be predicted: {said}")
    assert not (tmp_path / "run").exists()


def test_a_column_that_cannot_be_read_is_dropped(command, tmp_path):
    frame = pd.DataFrame({"a": np.arange(40.0), "list": [[1]] * 40, "y": ["x", "y"] * 20})
    write(frame, tmp_path / "t.parquet")
    code, _, err = command("train", "t.parquet", "--target", "y")
    assert code == 2
    assert "column 'list' is of type list" in err
    assert train(command, "t.parquet", "y", "--drop", "list")["columns"] == ["a"]
    assert command("evaluate", "run")[0] == 0
    assert command("predict", "run", "t.parquet", "--quiet")[0] == 0
    assert "cannot be dropped" in command("train", "t.parquet", "--target", "y", "--drop", "a", "--group", "a")[2]


def test_files_of_one_name_in_two_folders(command, tmp_path):
    for n, folder in enumerate(("first", "second")):
        (tmp_path / folder).mkdir()
        write(pd.DataFrame({"a": np.arange(20.0) + n, "y": ["x", "y"] * 10}), tmp_path / folder / "t.csv")
    said = json.loads(
        command("train", "first/t.csv", "second/t.csv", "--target", "y", *SHORT, "--out", "run", "--json")[1]
    )
    code, out, _ = command("evaluate", "run", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == said["test"]["accuracy"]


def test_several_targets(command, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    frame = pd.DataFrame(X, columns=list("abc")).assign(p=(X[:, 0] > 0) * 1, q=X[:, 1] > 0.5, r=X[:, 2] * 3)
    write(frame, tmp_path / "t.csv")
    said = train(command, "t.csv", "p", "--target", "q", "--drop", "r")
    assert said["task"] == "classification"
    assert len(said["test"]["accuracy_of_labels"]) == 2
    code, out, _ = command("predict", "run", "t.csv", "--quiet")
    assert code == 0
    assert out.splitlines()[0].replace('"', "") == "prediction_p,prediction_q,probability_p,probability_q"
    (tmp_path / "run").rename(tmp_path / "labels")
    said = train(command, "t.csv", "p", "--target", "r")
    assert said["task"] == "regression"
    assert len(said["test"]["rmse"]) == 2
    assert (
        command("predict", "run", "t.csv", "--quiet")[1].splitlines()[0].replace('"', "") == "prediction_p,prediction_r"
    )


def test_weights_count(command, tmp_path):
    """A row of weight 0 is as good as none, in training and in the test."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=300), "w": np.repeat([1.0, 0.0], 150)})
    frame["y"] = np.where(frame["w"] > 0, frame["a"], -5 * frame["a"])
    write(frame, tmp_path / "t.csv")
    said = train(command, "t.csv", "y", "--sample-weight", "w", "--epochs", 60)
    assert said["test"]["r2"] > 0.9
    assert said["columns"] == ["a"]


def test_rows_without_a_target_are_left_out(command, tmp_path):
    frame = pd.DataFrame({"a": np.arange(50.0), "y": [None, *range(49)]})
    write(frame, tmp_path / "t.csv")
    said = train(command, "t.csv", "y", "--task", "regression")
    assert said["training_rows"] + said["test"]["rows"] == 49
    assert said["notices"][0] == "1 of 50 rows have no y: they are left out"


def test_a_class_that_the_training_never_saw(command, tmp_path):
    frame = pd.DataFrame({"a": np.arange(40.0), "y": ["x", "y"] * 20})
    write(frame, tmp_path / "t.csv")
    write(pd.DataFrame({"a": [1.0, 2.0], "y": ["x", "new"]}), tmp_path / "other.csv")
    said = train(command, "t.csv", "y", "--test", "other.csv")
    assert said["test"]["rows_of_unseen_classes"] == 1
    assert "1 rows of the test have a class that no row of the training has: they count as wrong" in said["notices"]


def test_columns_in_another_order_and_values_never_seen(command, tmp_path):
    path = table_file("cars by origin", tmp_path)
    train(command, path, "Origin", "--drop", "Name")
    frame = pd.read_csv(path).head(20)
    whole = command("predict", "run", path, "--quiet")[1].splitlines()[:21]
    write(frame[list(frame)[::-1]], tmp_path / "turned.csv")
    code, out, err = command("predict", "run", "turned.csv", "--keep", "Name", "--unsure-below", 1)
    assert code == 0
    assert err.splitlines() == ["turned.csv: rows that are unsure: 20 of 20"]
    kept = pd.read_csv(pd.io.common.StringIO(out))
    assert list(kept) == ["Name", *whole[0].replace('"', "").split(","), "unsure"]
    np.testing.assert_array_equal(kept["prediction"], [line.split(",")[0].strip('"') for line in whole[1:]])

    write(frame.drop(columns=["Year", "Cylinders"]), tmp_path / "short.csv")
    code, out, err = command("predict", "run", "short.csv")
    assert (code, out) == (2, "")
    assert err.startswith("batchnorm: short.csv lacks the columns 'Cylinders', 'Year', of 7 that were trained on")


def test_texts_that_look_like_numbers_are_the_same_in_every_file(command, tmp_path, monkeypatch):
    """In a file that has no others, too: 007 is not 7."""
    codes = np.random.default_rng(0).choice(["007", "1.10", "1.1", "x"], 400)
    frame = pd.DataFrame({"code": codes, "target": np.where(codes == "1.10", "1", np.where(codes == "007", "2", "z"))})
    frame.to_csv("t.csv", index=False)
    numbers = frame[frame["target"] != "z"]
    numbers.to_csv("numbers.csv", index=False)
    test = ("--test", "numbers.csv", "--epochs", "20")
    code, out, _ = command("train", "t.csv", "--target", "target", *test, "--out", "run", "--json")
    assert (code, json.loads(out)["test"]["accuracy"]) == (0, 1.0)
    assert json.loads(command("evaluate", "run", "--json")[1])["accuracy"] == 1.0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "numbers.csv").read_bytes())))
    for given in ("numbers.csv", "-"):
        assert command("predict", "run", given, "-o", "out.csv", "--quiet") == (0, "", "")
        predicted = pd.read_csv("out.csv", dtype=str)["prediction"]
        np.testing.assert_array_equal(predicted, numbers["target"])
    export = ("export", "run", "-o", "run.onnx", "--rows", "numbers.csv")
    assert command(*export)[0] == 0


def test_values_that_the_training_never_saw_are_counted(command, tmp_path):
    frame = pd.DataFrame({"a": list("pqrs") * 10, "b": range(40), "y": list("uuvv") * 10})
    write(frame, tmp_path / "t.csv")
    train(command, "t.csv", "y")
    write(frame.assign(a=["new", "other", None, *"p" * 37]), tmp_path / "other.csv")
    code, out, err = command("predict", "run", "other.csv", "-o", "out.jsonl", "--json")
    assert (code, err) == (0, "")
    (said,) = json.loads(out)["files"]
    assert said["strange_values"] == {"a": 2}
    assert said["rows"] == len((tmp_path / "out.jsonl").read_text().splitlines()) == 40
    assert command("predict", "run", "other.csv", "-o", "out.csv")[2].splitlines() == [
        "other.csv: values of 'a' that were rare, or not there, in training: 2",
        "other.csv: rows predicted: 40",
    ]


def test_what_was_recognised_in_a_file_is_said(command, tmp_path):
    rows = "".join(f"{i},5;{'ja' if i % 2 else 'nein'}\n" for i in range(30))
    (tmp_path / "t.csv").write_text(f"größe;y\n{rows}", encoding="utf-16")
    said = train(command, "t.csv", "y")
    assert said["columns"] == ["größe"]
    assert said["notices"][0].startswith("t.csv: ")
    assert "delimiter ';', decimal comma" in said["notices"][0]


def test_files_that_hold_the_same_are_told(command, tmp_path):
    """Rows that are trained on and tested on make a figure that is too good."""
    path = table_file("iris", tmp_path)
    (tmp_path / "copy.csv").write_bytes(path.read_bytes())
    (tmp_path / "other.csv").write_bytes(path.read_bytes() + b"1,1,1,1,1\n")
    same = "{} and {} hold the same rows: leave one out, as the test has some of the training"
    cases = {("--test", "other.csv"): [], ("--test", "copy.csv"): ["copy.csv"], (path,): [path.name]}
    for given, names in cases.items():
        notices = train(command, path, "target", *given)["notices"]
        assert [notice for notice in notices if "the same" in notice] == [
            same.format(path.name, name) for name in names
        ]
        shutil.rmtree("run")


@pytest.mark.parametrize(
    ("cells", "misfit"),
    [
        ([*range(30), "nil"], "nil"),
        ([*range(30), ".", "12 %"], "."),
        ([f"{n},234.5" for n in range(1, 30)], "1,234.5"),
        ([f"{n}%" for n in range(30)], "0%"),
        ([f"$ {n}.50" for n in range(30)], "$ 0.50"),
        ([*range(30), "x" * 100], "x" * 40 + "…"),
        ([*range(30), *"abcdefghijklmnopqrstuvwxyzABCDEFG"], None),
        ([f"{n:03}" for n in range(30)] + ["A01"], None),
        ([1, 2, 3, "x"], None),
        ([f"2020-{n}" for n in range(30)], None),
        ([*range(30), ""], None),
    ],
)
def test_numbers_that_are_read_as_texts_are_told(cells, misfit, command, tmp_path):
    frame = pd.DataFrame({"a": [str(cell) for cell in cells] * 2})
    frame.assign(b=np.arange(len(frame)) % 7, target=np.arange(len(frame)) % 2).to_csv("t.csv", index=False)
    notices = train(command, "t.csv", "target")["notices"]
    told = [notice for notice in notices if "is read as texts" in notice]
    begin = "column 'a' is read as texts, though most of its values look like numbers: "
    assert told == [f"{begin}{misfit!r} is none; leave such cells empty, or write them as 1234.5"] * (
        misfit is not None
    )


def test_what_predict_refuses(command, tmp_path):
    train(command, table_file("autompg", tmp_path), "target")
    assert "probabilities" in command("predict", "run", table_file("autompg", tmp_path), "--unsure-below", 0.5)[2]
    assert "--output" in command("predict", "run", table_file("autompg", tmp_path), "--json")[2]
    assert "no column" in command("predict", "run", table_file("autompg", tmp_path), "--keep", "nothing")[2]
    assert command("predict", "nowhere", table_file("autompg", tmp_path))[0] == 2
    frame = pd.DataFrame(1.0, index=range(5), columns=[f"x{i}" for i in range(7)]).assign(x3="text")
    write(frame, tmp_path / "wrong.csv")
    code, _, err = command("predict", "run", "wrong.csv", "-o", "out.csv")
    assert code == 2
    assert "x3" in err
    assert not list(tmp_path.glob("*out*"))  # nothing half-written
    table = bn.tables.read_tables([table_file("autompg", tmp_path)]).to_pandas()
    write(table.assign(**{table.columns[0]: "text"}), tmp_path / "wrong.csv")
    code, _, err = command("export", "run", "--rows", "wrong.csv", "-o", "out.onnx")
    assert (code, err.startswith("batchnorm: wrong.csv: column ")) == (2, True)


def test_predictions_replace_nothing_that_was_given(command, tmp_path):
    path = table_file("iris", tmp_path)
    train(command, path, "target")
    frame = pd.read_csv(path).assign(prediction="mine")
    frame.to_csv("own.csv", index=False)
    (tmp_path / "link.csv").symlink_to("own.csv")
    for output in ("own.csv", "./own.csv", "link.csv"):
        code, _, err = command("predict", "run", path, "own.csv", "-o", output)
        assert (code, f"{Path(output)} is a file that is read: choose another name" in err) == (2, True)
    pd.testing.assert_frame_equal(pd.read_csv("own.csv"), frame)
    code, _, err = command("predict", "run", "own.csv", "--keep", "prediction", "-o", "out.csv")
    assert (code, "--keep 'prediction' has the name of a column of predictions" in err) == (2, True)
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "again").symlink_to("run")
    for refused in (
        ("export", "run", "-o", "run/estimator.safetensors"),
        ("export", "again", "--format", "torch", "-o", "run/results.json"),
        ("export", "run", "--rows", path, "-o", path),
        ("predict", "run", path, "-o", "again/table.jsonl"),
    ):
        Path(refused[-1]).touch()
        assert command(*refused)[0] == 2
    (tmp_path / "run" / "table.jsonl").unlink()
    assert command("runs", "run")[0] == 0
    (tmp_path / "old.csv").write_text("of yesterday")
    assert command("predict", "run", "own.csv", "-o", "old.csv", "--quiet") == (0, "", "")


REFUSED = {
    "no target": (("t.csv",), "which column of t.csv is to be predicted? Name it by --target"),
    "standard input": (("-", "--target", "y"), "standard input cannot: name a file"),
    "no file": (("--target", "y"), "name the file too"),
    "another column": (("t.csv", "--target", "z"), "--target 'z' is no column of the table: it has ['a', 'y']"),
    "all dropped": (("t.csv", "--target", "y", "--drop", "a"), "no column is left to learn from"),
    "target dropped": (("t.csv", "--target", "y", "--drop", "y"), "cannot be the target and something else"),
    "texts as values": (("t.csv", "--target", "a", "--task", "regression"), "holds string values, expected numbers"),
    "a recipe": (("t.csv", "--target", "y", "--recipe", "classic"), "--recipe is for data sets that have a name"),
    "weight decay": (("t.csv", "--target", "y", "--weight-decay", "0.1"), "--weight-decay is for data sets"),
    "two splits": (("t.csv", "--target", "y", "--group", "a", "--time", "a"), "split in two ways"),
    "share": (("t.csv", "--target", "y", "--test-share", "1"), "expected a number between 0 and 1"),
    "time of texts": (("t.csv", "--target", "y", "--time", "a"), "expected dates, times or numbers"),
    "constant": (("constant.csv", "--target", "y"), "there is nothing to learn"),
    "few": (("few.csv", "--target", "y"), "1 rows to train on, expected at least 4"),
    "weights": (("constant.csv", "--target", "a", "--sample-weight", "b"), "are string values, expected numbers"),
    "one group": (("constant.csv", "--target", "b", "--group", "y"), "expected at least 2: leave out --group"),
    "infinite": (("infinite.csv", "--target", "y", "--task", "regression"), "infinite"),
    "a date": (("dates.csv", "--target", "day"), "the target holds date32[day] values: make numbers of them, such as"),
    "a data set's": (("digits", "--drop", "a"), "--drop is for tables of your own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_ends_in_one_line(command, tmp_path, case):
    write(pd.DataFrame({"a": list("pqrs") * 5, "y": range(20)}), tmp_path / "t.csv")
    write(pd.DataFrame({"a": range(9), "b": list("pqr") * 3, "y": [3] * 9}), tmp_path / "constant.csv")
    write(pd.DataFrame({"a": [1, 2], "y": [1, 2]}), tmp_path / "few.csv")
    write(pd.DataFrame({"a": range(9), "y": [np.inf, *range(8)]}), tmp_path / "infinite.csv")
    write(pd.DataFrame({"a": range(9), "day": pd.date_range("2020", periods=9)}), tmp_path / "dates.csv")
    arguments, message = REFUSED[case]
    before = sorted(tmp_path.iterdir())
    code, _, err = command("train", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_column_that_is_all_missing_is_told_and_left_out(command, tmp_path):
    write(pd.DataFrame({"a": range(20), "gone": [None] * 20, "y": list("pq") * 10}), tmp_path / "t.csv")
    said = train(command, "t.csv", "y")
    assert "column 'gone' is missing in every row: nothing is learnt from it" in said["notices"]
    assert list(bn.load_run("run").estimator.network_feature_names_) == ["a"]


def test_files_that_moved_or_changed(command, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(table_file("iris", tmp_path).read_bytes())
    train(command, "t.csv", "target")
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / "t.csv")
    code, _, err = command("evaluate", "run")
    assert code == 2
    assert "which is not there now: say by --data-dir where it is" in err
    assert command("evaluate", "run", "--data-dir", "elsewhere")[0] == 0
    path.write_text(table_file("iris", tmp_path).read_text() + "1,1,1,1,1\n")
    assert "t.csv has changed since" in command("evaluate", "run")[2]


@pytest.mark.parametrize("name", ["table.json", "results.json", "environment.json", "estimator.safetensors"])
def test_damage_is_noticed(command, tmp_path, name):
    train(command, table_file("iris", tmp_path), "target")
    path = tmp_path / "run" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, out, err = command("predict", "run", table_file("iris", tmp_path))
    assert (code, out) == (2, "")
    assert name in err


def test_a_run_predicts_frames_of_any_library(command, tmp_path):
    polars = pytest.importorskip("polars")
    train(command, table_file("weather", tmp_path), "weather")
    run, frame = bn.load_run("run"), pd.read_csv(table_file("weather", tmp_path), parse_dates=["date"])
    expected = run.predict(frame)
    np.testing.assert_array_equal(run.predict(polars.from_pandas(frame)), expected)
    np.testing.assert_array_equal(run.predict(pa.Table.from_pandas(frame)), expected)
    with pytest.raises(bn.InputError, match="lacks the column 'wind'"):
        run.predict(frame.drop(columns="wind"))
    with pytest.raises(bn.InputError, match="a frame with named columns, got a ndarray"):
        run.predict(frame.to_numpy())
    assert str(run).startswith("classification of weather\ntest accuracy 0.")


@pytest.mark.parametrize("name", ["table.json", "environment.json", "results.json"])
def test_what_someone_edited_on_purpose_is_accepted(name, command, tmp_path):
    train(command, table_file("iris", tmp_path), "target")
    file = tmp_path / "run" / name
    edited = file.read_text().replace("iris.csv", "flowers.csv").replace('"rows": 30', '"rows": 31')
    assert edited != file.read_text()
    file.write_text(edited)
    code, out, err = command("runs", "run")
    assert code == 1
    assert err.endswith("put that right by batchnorm runs --accept-edits run)\n")
    code, out, err = command("runs", "--accept-edits", "run")
    assert (code, err) == (0, "")
    assert "finished" in out
    assert command("runs", "run")[0] == 0
    file.write_text(edited.replace('"sha256"', '"sha"').replace("{", "", 1))
    code, _, err = command("runs", "--accept-edits", "run")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m-%d-%Y"])
def test_dates_of_a_short_file_are_read_as_the_trainings_were(form, command, tmp_path):
    """Though its own do not tell which number is the day; nor do those of a part of the training."""
    rng, days = np.random.default_rng(0), pd.date_range("2020-01-01", periods=400)
    frame = pd.DataFrame({"day": days.strftime(form), "y": np.sin(days.day_of_year / 58) + rng.normal(0, 0.1, 400)})
    early = days.day <= 12
    frame[~early].to_csv("first.csv", index=False)
    frame[early].to_csv("second.csv", index=False)
    code, out, err = command("train", "second.csv", "first.csv", "--target", "y", *SHORT, "--out", "run", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert {column["name"]: column["kind"] for column in said["profile"]["columns"]} == {"day": "time", "y": "number"}
    assert not any("stay texts" in notice for notice in said["notices"])
    frame[early].head(3).to_csv("few.csv", index=False)
    assert command("predict", "run", "few.csv", "-o", "out.parquet", "--quiet") == (0, "", "")
    expected = bn.load_run("run").predict(frame[early].head(3).assign(day=days[early][:3]))
    np.testing.assert_array_equal(pd.read_parquet("out.parquet")["prediction"], expected)
    code, out, err = command("evaluate", "run", "--json")
    assert json.loads(out)["r2"] == said["test"]["r2"]
