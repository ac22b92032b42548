"""The page of a run on a table."""

import pandas as pd
import pytest

import batchnorm as bn
from batchnorm.errors import InputError
from batchnorm.reporting.importance import permutation_importance
from batchnorm.reporting.tables import _command
from batchnorm.tables import TableFolder, train_table
from batchnorm.tables.checkpoints import Recorder
from pages import Page
from table_cases import write

HACK = "<img src=x onerror=\"document.title='hacked'\">"
SMALL = {"epochs": 3, "hidden_layer_sizes": (8,), "random_state": 0}


def frame(n=120):
    rows = range(n)
    return pd.DataFrame(
        {
            HACK: [i % 3 for i in rows],
            "$noise$": [(i * 7919) % 11 for i in rows],
            "{{ text }}": [("</script>", "b & c", "")[i % 3] for i in rows],
            "class": [("<b>", "yes", "no")[i % 3] for i in rows],
            "value": [float(i % 3) + 0.01 * (i % 5) for i in rows],
            "other": [float(i % 3) * 100 for i in rows],
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(frame(), tmp_path_factory.mktemp("tables") / "table.csv")


def page_of(table, target, folder, drop=(), **options):
    run = train_table([table], target, drop=drop, parameters=SMALL, out=folder / "run")
    return Page(bn.write_report(run.path, **options).path)


def test_classes_and_columns_of_any_name_are_text(table, tmp_path):
    page = page_of(table, ["class"], tmp_path, ["value", "other"])
    assert page.sections == [
        "summary", "learning", "mistakes", "columns", "activations", "statistics", "gradients", "making",
    ]  # fmt: skip
    drawn = page.figures()
    assert {"Pre-activations of hidden 1", "Pre-activations of output", "γ and β, which scale and shift"} <= {
        title.removesuffix(" what was normalised") for title in drawn
    }
    assert "the population's, which took the place of the running averages" in page.text("statistics")
    assert not page.all("img")
    assert not page.all("script")
    assert HACK in page.text("columns")
    assert "Confusion matrix" in page.figures()
    assert HACK in page.figures()["Permutation importance"] or "{{ text }}" in page.figures()["Permutation importance"]
    assert "24 rows that were kept for the test" in page.text("summary")
    command = next(text for of, tag, text in page.texts if of == "making" and tag == "code")
    assert command.startswith("batchnorm train table.csv --target class --drop value --drop other")
    assert "--hidden-layer-sizes 8 " in command
    assert str(table.parent) not in page.source


@pytest.mark.parametrize(
    ("parameters", "option"),
    [
        ({"alpha": 1.0}, None),
        ({"batch_size": "auto"}, None),
        ({"early_stopping": True}, None),
        ({"early_stopping": True, "n_iter_no_change": 3}, "--early-stopping-patience 3"),
        ({"learning_rate_init": 0.02, "random_state": 7}, "--seed 7 --learning-rate 0.02"),
    ],
)
def test_a_command_is_told_where_there_is_one(table, tmp_path, parameters, option):
    train_table([table], ["class"], parameters={**SMALL, "epochs": 1, **parameters}, out=tmp_path / "run")
    command = _command(TableFolder.open(tmp_path / "run"))
    assert (command is None) if option is None else (option in command)


def test_values(table, tmp_path):
    page = page_of(table, ["value", "other"], tmp_path, ["class"])
    assert "R² is" in page.text("summary")
    assert {"value: predicted against true", "other: predicted against true"} <= set(page.figures())
    assert "The rows that are predicted worst" in page.text("mistakes")
    page = Page(bn.write_report(tmp_path / "run", examples=False).path)
    assert not page.all("svg", "mistakes")  # a point of a scatter is a row


def test_a_training_that_was_stopped(table, tmp_path, monkeypatch):
    save, saved = Recorder.save, []

    def stop(recorder, *checkpoint):
        save(recorder, *checkpoint)
        saved.append(checkpoint)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "is_due", True)
    monkeypatch.setattr(Recorder, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train_table([table], ["class"], parameters={**SMALL, "batch_size": 96}, out=tmp_path / "run")
    page = Page(bn.write_report(tmp_path / "run").path)
    assert "This training is not finished: it was saved last after" in page.text("summary")
    assert page.sections == ["summary", "learning", "activations", "statistics", "gradients", "making"]
    assert "took the place" not in page.text("statistics")  # they still are running averages


def test_rows_are_left_out_where_that_is_asked_for(weather_run, tmp_path):
    page = Page(bn.write_report(weather_run, examples=False, output=tmp_path / "a.html").path)
    assert "The rows that are predicted worst" not in page.text("mistakes")
    assert "Rows were left out" in page.text("mistakes")
    with pytest.raises(InputError, match="leave out dataset"):
        bn.write_report(weather_run, bn.load_dataset("digits"))


def test_files_that_are_gone_are_said_to_be(tmp_path):
    table = write(frame(), tmp_path / "gone.csv")
    run = train_table([table], ["class"], parameters=SMALL, out=tmp_path / "run")
    table.unlink()
    page = Page(bn.write_report(run).path)
    assert "The files are not at hand" in page.text("summary")
    assert "trained on gone.csv, which" in page.text("summary")
    assert str(tmp_path) not in page.source
    assert "Confusion matrix" in page.figures()
    assert "Permutation importance" not in page.figures()
    with pytest.raises(InputError, match="--data-dir"):
        bn.write_report(run, data_dir=tmp_path)


class Copying:
    """An estimator that predicts one of its columns."""

    def predict(self, inputs):
        return inputs["used"].to_numpy()


def test_importance_is_what_a_column_is_worth_to_the_estimator():
    import pyarrow as pa

    inputs = pa.table({"unused": list(range(40)), "used": [float(i) for i in range(40)]})
    found = permutation_importance(Copying(), inputs, inputs["used"].to_numpy())
    assert found.names == ["used", "unused"]
    assert found.score == 1
    assert found.means[0] > 1
    assert found.means[1] == 0
    assert found.deviations[0] > 0
    in_no_time = permutation_importance(Copying(), inputs, inputs["used"].to_numpy(), seconds=-1.0)
    assert (in_no_time.names, in_no_time.n_left_out) == ([], 2)
