"""Tables that other packages ship, as files of several kinds."""

import json
from pathlib import Path

import mlxtend.data
import pandas as pd
import sklearn.datasets
import vega_datasets

VEGA = Path(vega_datasets.__file__).parent / "_data"


def _vega(name):
    path = VEGA / name
    return pd.DataFrame(json.loads(path.read_text())) if name.endswith(".json") else pd.read_csv(path)


def _sklearn(name):
    return getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame


def _mlxtend(name):
    inputs, target = getattr(mlxtend.data, f"{name}_data")()
    return pd.DataFrame(inputs).add_prefix("x").assign(target=target)


# name: table, target, task, suffix, and what else the command line is given
TABLES = {
    "cars by origin": (lambda: _vega("cars.json"), "Origin", "classification", ".csv", ["--drop", "Name"]),
    "cars by use": (lambda: _vega("cars.json"), "Miles_per_Gallon", "regression", ".jsonl", []),
    "weather": (lambda: _vega("seattle-weather.csv"), "weather", "classification", ".csv", []),
    "temperature": (lambda: _vega("seattle-weather.csv"), "temp_max", "regression", ".tsv", ["--time", "date"]),
    "stocks": (lambda: _vega("stocks.csv"), "price", "regression", ".parquet", []),
    "airports": (lambda: _vega("airports.csv").head(1200), "latitude", "regression", ".csv.gz", ["--group", "state"]),
    "electricity": (lambda: _vega("iowa-electricity.csv"), "source", "classification", ".csv", []),
    "riots": (lambda: _vega("la-riots.csv"), "race", "classification", ".csv", ["--task", "classification"]),
    "employment": (lambda: _vega("us-employment.csv"), "nonfarm", "regression", ".feather", []),
    "iris": (lambda: _sklearn("iris"), "target", "classification", ".csv", []),
    "wine": (lambda: _sklearn("wine"), "target", "classification", ".jsonl.gz", []),
    "cancer": (lambda: _sklearn("breast_cancer"), "target", "classification", ".parquet", []),
    "diabetes": (lambda: _sklearn("diabetes"), "target", "regression", ".arrow", []),
    "autompg": (lambda: _mlxtend("autompg"), "target", "regression", ".csv.zst", []),
}


def write(frame, path):
    """Write a frame as the file whose suffix `path` has."""
    kind, _, packed = path.name.partition(".")[2].partition(".")
    how = {"gz": "gzip", "zst": "zstd"}.get(packed)
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind in ("arrow", "feather"):
        frame.to_feather(path)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True, compression=how)
    else:
        import pyarrow as pa

        text = frame.to_csv(index=False, sep="\t" if kind == "tsv" else ",").encode()
        with pa.output_stream(path, compression=how) as stream:
            stream.write(text)
    return path


def table_file(name, folder):
    """Write a table as the file of its kind."""
    load, *_, suffix, _ = TABLES[name]
    return write(load(), folder / f"{name.replace(' ', '-')}{suffix}")
