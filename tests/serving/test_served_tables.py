"""What is answered is what `predict` writes, and what is no row of the training is refused by row and column."""

import datetime
import json

import numpy as np
import pandas as pd
import pytest

from batchnorm.errors import InputError
from batchnorm.serving import Limits, serve_run
from batchnorm.tables import read_tables, train_table
from served_runs import ask, train
from table_cases import TABLES, table_file, write


@pytest.mark.parametrize("name", ["cars by use", "weather", "airports", "riots", "employment", "wine"])
def test_answers_are_those_of_predict(command, tmp_path, name):
    _, target, _, _, options = TABLES[name]
    path = table_file(name, tmp_path)
    train(command, path, target, *options)
    rows = read_tables([path]).slice(0, 300).to_pylist()
    rows = json.loads(json.dumps(rows, default=datetime.date.isoformat))
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command("predict", "run", lines, "-o", "out.jsonl", "--quiet") == (0, "", "")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answer = ask(serve_run(tmp_path / "run", Limits()), rows)
    assert answer["predictions"] == written
    _, out, _ = command("predict", "run", lines, "-o", "out.jsonl", "--json")
    (file,) = json.loads(out)["files"]
    assert answer["columns_passed_over"] == file["columns_passed_over"]
    assert answer["strange_values"] == file["strange_values"]


def frame_of_all_kinds(n=90):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "whole": rng.integers(0, 9, n),
            "truth": rng.random(n) > 0.5,
            "text": rng.choice(["a", "b", "1"], n),
            "date": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "zoned": pd.Timestamp("2020-01-01", tz="Europe/Berlin") + pd.to_timedelta(rng.integers(0, 9000, n), "h"),
            "lasts": pd.to_timedelta(rng.integers(0, 9000, n), "s"),
            "empty": np.nan,
            "y": rng.choice(["left", "right"], n),
        }
    )


@pytest.fixture(scope="module")
def kinds_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    path = write(frame_of_all_kinds(), folder / "t.parquet")
    return train_table([path], ["y"], parameters={"epochs": 2, "hidden_layer_sizes": (8,)}, out=folder / "run")


@pytest.fixture(scope="module")
def kinds(kinds_run):
    return serve_run(kinds_run.path, Limits(rows=5))


ROW = {
    "number": 0.25, "whole": 3, "truth": True, "text": "a", "date": "2021-05-06", "zoned": "2020-07-01T12:00:00+02:00",
    "lasts": 3600, "empty": None,
}  # fmt: skip


def test_every_kind_of_column_is_what_a_frame_holds(kinds, kinds_run):
    typed = {
        "date": pd.Timestamp("2021-05-06"),
        "zoned": pd.Timestamp("2020-07-01T12:00:00", tz="Europe/Berlin"),
        "lasts": pd.Timedelta("1h"),
    }
    expected = kinds_run.predict_proba(pd.DataFrame([ROW | typed]))[0]
    (answer,) = ask(kinds, [ROW])["predictions"]
    np.testing.assert_array_equal([answer["probability_left"], answer["probability_right"]], expected)


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [
        ("whole", 3, 3.0),
        ("truth", True, 1),
        ("text", "1", 1),
        ("text", 1, 1.0),
        ("date", "2021-05-06", "2021-05-06T00:00:00"),
        ("zoned", "2020-07-01T12:00:00+02:00", "2020-07-01T10:00:00Z"),
        ("lasts", 3600, "01:00:00"),
        ("empty", None, "whatever it is"),
    ],
)
def test_values_that_are_written_in_two_ways(kinds, column, one, other):
    first, second = ask(kinds, [ROW | {column: one}, ROW | {column: other}])["predictions"]
    assert first == second


def test_what_is_not_known_is_null_and_what_is_new_is_counted(kinds):
    assert ask(kinds, [dict.fromkeys(ROW)])["strange_values"] == {}
    answer = ask(kinds, [ROW | {"text": "new", "y": "left", "extra": [1], "more": None}, ROW | {"other": 1}])
    assert answer["strange_values"] == {"text": 1}
    assert answer["columns_passed_over"] == ["extra", "more", "other"]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("number", "abc", "is 'abc', expected a number, or null"),
        ("number", [1], "is a list, expected a number"),
        ("number", 10**400, "is 1000000000000000000000000000000000000000…, expected a number"),
        ("text", {"a": 1}, "is an object, expected a text"),
        ("text", "\ud800", r"is '\\ud800', expected a text"),
        ("date", "6.5.2021", "is '6.5.2021', expected a date or time of ISO 8601"),
        ("date", 1620252000000, "is 1620252000000, expected a date"),
        ("date", "2020-07-01T12:00:00+02:00", "expected a date or time"),
        ("zoned", "2020-07-01T12:00:00", "with its time zone"),
        ("zoned", "0001-01-01T00:00:00+12:00", "with its time zone"),
        ("lasts", "soon", "expected a number of seconds"),
        ("lasts", 1e300, "expected a number of seconds"),
        ("lasts", "12:00:00+01:00", "expected a number of seconds"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_row_and_column(kinds, column, value, said):
    with pytest.raises(InputError, match=f"^row 2: column '{column}' .*{said}"):
        ask(kinds, [ROW, ROW | {column: value}])


BODIES = {
    "nothing": (b"", "cannot be read as JSON"),
    "no JSON": (b"{rows", "cannot be read as JSON"),
    "not UTF-8": (b'{"rows": "\xff"}', "cannot be read as JSON"),
    "NaN": (b'{"rows": [{"number": NaN}]}', "NaN is not JSON"),
    "infinity": (b'{"rows": [{"number": -Infinity}]}', "-Infinity is not JSON"),
    "too large a number": (b'{"rows": [{"number": 1e999}]}', "1e999 is beyond the numbers"),
    "too many digits": (b'{"rows": [{"number": ' + b"1" * 9999 + b"}]}", "cannot be read as JSON"),
    "a column twice": (b'{"rows": [{"number": 1, "number": 2}]}', "'number' is there twice"),
    "nested": (b"[" * 100_000, "cannot be read as JSON"),
    "a list": (b"[]", "the body is a list"),
    "a number": (b"1", "the body is 1, expected"),
    "no rows": (b"{}", "the body has no keys"),
    "further keys": (b'{"rows": [], "threshold": 1}', "the body has the keys 'rows', 'threshold'"),
    "rows that are none": (b'{"rows": {"number": 1}}', "rows is an object"),
    "rows of lists": (b'{"rows": [[1]]}', "row 1 is a list"),
    "empty": (b'{"rows": []}', "rows is empty: there is nothing to predict"),
    "too many": (json.dumps({"rows": [ROW] * 6}).encode(), "there are 6 rows, expected 5 at most"),
    "without a column": (json.dumps({"rows": [ROW, {"number": 1}]}).encode(), "row 2 lacks the column 'whole'"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_that_is_none_is_refused_in_one_line(kinds, case):
    body, said = BODIES[case]
    with pytest.raises(InputError, match=said) as caught:
        kinds.answer(body)
    assert len(str(caught.value)) < 300


def test_a_key_that_is_there_twice_among_very_many_is_found_at_once(kinds):
    """Counting each key among all of them takes hours here."""
    keys = ", ".join(f'"{n}": 1' for n in range(200_000))
    with pytest.raises(InputError, match="'199999' is there twice"):
        kinds.answer(f'{{{keys}, "199999": 1}}'.encode())


def test_labels_and_values(command, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 3))
    frame = pd.DataFrame(X, columns=list("abc")).assign(p=(X[:, 0] > 0) * 1, q=X[:, 1] > 0.5)
    write(frame, tmp_path / "t.csv")
    train(command, "t.csv", "p", "--target", "q", "--drop", "c")
    (answer,) = ask(serve_run(tmp_path / "run", Limits()), [{"a": 1, "b": 2}])["predictions"]
    assert list(answer) == ["prediction_p", "prediction_q", "probability_p", "probability_q"]
    assert answer["prediction_p"] in (0, 1)


def test_plain_numbers_may_be_missing_too(command, tmp_path):
    write(frame_of_all_kinds()[["number", "whole", "y"]], tmp_path / "t.csv")
    train(command, "t.csv", "y")
    model = serve_run(tmp_path / "run", Limits())
    ask(model, [{"number": None, "whole": None}])
    with pytest.raises(InputError, match="row 1: column 'whole' is 'three', expected a number"):
        ask(model, [{"number": None, "whole": "three"}])
