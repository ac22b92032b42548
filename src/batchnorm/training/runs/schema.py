"""What the files of a run may hold, one schema each; errors say where in the file a value stands."""

from collections.abc import Callable
from typing import Any, get_args

from batchnorm.config import Task, TrainingConfig
from batchnorm.errors import InputError

Check = Callable[[Any, str], Any]  # takes a value and where it stands; returns it or raises InputError


def _refuse(value: Any, where: str, expected: str) -> InputError:
    text = f"{repr(value)[:40]} …" if len(repr(value)) > 40 else repr(value)
    return InputError(f"{where} is {text}, expected {expected}")


def _whole(low: int, high: int = 2**63 - 1) -> Check:
    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _refuse(value, where, f"a whole number from {low} to {high}")
        return value

    return check


def _number(low: float = -float("inf"), high: float = float("inf")) -> Check:
    def check(value: Any, where: str) -> float:
        try:
            if type(value) in (int, float) and low <= float(value) <= high:
                return float(value)
        except OverflowError:
            pass
        raise _refuse(value, where, "a number" + ("" if high == float("inf") else f" from {low:g} to {high:g}"))

    return check


def _of_type(kind: type, name: str) -> Check:
    def check(value: Any, where: str) -> Any:
        if type(value) is not kind:
            raise _refuse(value, where, name)
        return value

    return check


def _loss(value: Any, where: str) -> float:
    """Null stands for what JSON has no number for."""
    return float("nan") if value is None else _number()(value, where)


def _maybe(check: Check) -> Check:
    return lambda value, where: None if value is None else check(value, where)


def _each(check: Check, longest: int = 10**6) -> Check:
    def check_all(values: Any, where: str) -> list[Any]:
        if type(values) is not list or len(values) > longest:
            raise _refuse(values, where, f"a list of at most {longest}")
        return [check(value, f"{where}[{i}]") for i, value in enumerate(values)]

    return check_all


def _one_or_several(check: Check) -> Check:
    several = _each(check)
    return lambda value, where: (several if type(value) is list else check)(value, where)


def _one_of(*texts: str) -> Check:
    def check(value: Any, where: str) -> str:
        if value not in texts:
            raise _refuse(value, where, " or ".join(texts))
        return str(value)

    return check


def _named(check: Check) -> Check:
    def check_all(values: Any, where: str) -> dict[str, Any]:
        return {name: check(value, f"{where}.{name[:40]}") for name, value in _object(values, where).items()}

    return check_all


def _record(required: dict[str, Check], optional: dict[str, Check] | None = None, *, others: bool = False) -> Check:
    """Return the check of an object with these fields; `others` are kept as they are."""
    known = required | (optional or {})

    def check(values: Any, where: str) -> dict[str, Any]:
        fields = _object(values, where)
        if missing := [name for name in required if name not in fields]:
            raise InputError(f"{where} has no {', '.join(missing)}")
        if not others and (unknown := sorted(set(fields) - set(known))):
            raise InputError(f"{where} has unknown fields: {', '.join(unknown)[:80]}")
        return {
            name: known[name](value, f"{where}.{name}") if name in known else value for name, value in fields.items()
        }

    return check


def _config(values: Any, where: str) -> TrainingConfig:
    """Return the configuration; a field that is missing has its default, as earlier versions had fewer."""
    fields = _object(values, where)
    try:
        if "hidden_layer_sizes" in fields:
            sizes = _each(_whole(1, 2**31 - 1), longest=10_000)
            sizes(fields["hidden_layer_sizes"], "hidden_layer_sizes")
        return TrainingConfig.from_dict(fields)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _pair(value: Any, where: str) -> list[int]:
    if type(value) is not list or len(value) != 2:
        raise _refuse(value, where, "two numbers")
    return [_whole(1, 2**16)(size, where) for size in value]


_object = _of_type(dict, "an object")
_TEXT, _TRUTH = _of_type(str, "text"), _of_type(bool, "true or false")
_COUNT, _SHARE = _whole(0), _number(0, 1)
_SMALLEST = 5e-324  # above 0
_SPLIT_SEED = _maybe(_whole(0, 2**32 - 1))
_FORMAT = {"format": _COUNT}

_ORIGIN = _record(  # of data of the user's own
    {
        "kind": _TEXT,
        "paths": _each(_TEXT, longest=100),
        "image_size": _maybe(_pair),
        "contents": _named(_record({"size": _COUNT, "sha256": _TEXT})),
    },
    {"task": _one_of(*get_args(Task))},  # where someone said it
)
_SESSION = _record(
    {},
    {
        **dict.fromkeys(("started", "python", "platform", "cpu", "device", "data"), _TEXT),
        "seconds": _maybe(_number()),
        "packages": _named(_maybe(_TEXT)),
        "cpu_count": _maybe(_COUNT),
        "threads": _whole(1, 1024),  # as the option; many more than there are processors end the process
        "device_name": _maybe(_TEXT),
        "ended": _TEXT,
        "changed": _named(_each(_TEXT)),
        "origin": _ORIGIN,
    },
    others=True,
)
_ERRORS = _one_or_several(_number(0))
_SCORES: dict[Task, dict[str, Check]] = {
    "classification": {"accuracy": _SHARE},
    "labels": {"accuracy": _SHARE, "accuracy_of_labels": _each(_SHARE)},
    "regression": {"r2": _maybe(_number(high=1)), "rmse": _ERRORS, "mae": _ERRORS},
}


def _history(scores: dict[str, Check]) -> Check:
    return _each(
        _record(
            {
                "epoch": _COUNT,
                "step": _COUNT,
                **dict.fromkeys(("learning_rate", "step_loss", "train_loss", "validation_loss"), _loss),
                **{f"{part}_{name}": check for part in ("train", "validation") for name, check in scores.items()},
            },
            others=True,
        )
    )


def _results(scores: dict[str, Check]) -> Check:
    figures = _record({**scores, "loss": _loss}, others=True)
    return _record(
        {"epochs": _COUNT, "stopped_early": _TRUTH, "test": _record({"running": figures}, {"population": figures})},
        {"note": _TEXT},
        others=True,
    )


def _state(history: Check, best: Check) -> Check:
    return _record(
        {
            "epoch": _COUNT,
            "step": _COUNT,
            "loss_sum": _number(),
            "history": history,
            "best_accuracy": best,
            "evaluations_since_best": _COUNT,
            "stopped_early": _TRUTH,
        }
    )


def _dataset(values: Any, where: str) -> dict[str, Any]:
    """Return the description of a data set; of values it has what they are standardised with, one for each."""
    checked: dict[str, Any] = _DATASET(values, where)
    scale = checked.get("target_scale")
    if (scale is None) == (checked.get("task") == "regression"):
        raise InputError(f"{where} has task {checked.get('task')!r} and target_scale {scale!r:.40}, which do not fit")
    n = checked["n_classes"]
    if scale is not None and any(len(numbers) != n for numbers in scale.values()):
        raise InputError(
            f"{where}.target_scale has other than {n} numbers for mean and deviation, expected one per value"
        )
    return checked


_DATASET = _record(
    {
        "name": _TEXT,
        "split_seed": _SPLIT_SEED,
        "examples": _named(_COUNT),
        "feature_shape": _each(_COUNT),
        "n_classes": _COUNT,
        "fingerprint": _TEXT,
    },
    {
        "class_names": _each(_TEXT),  # these three were left out by the first versions
        "dtype": _one_of("uint8", "float32", "float64"),
        "scale": _number(),
        "task": _one_of("labels", "regression"),  # where it is not classification
        "target_scale": _record({"mean": _each(_number()), "deviation": _each(_number(_SMALLEST))}),
    },
)


def _exactly(n: int, check: Check) -> Check:
    def check_all(values: Any, where: str) -> list[Any]:
        if type(values) is not list or len(values) != n:
            raise _refuse(values, where, f"a list of {n}")
        return [check(value, f"{where}[{i}]") for i, value in enumerate(values)]

    return check_all


_FIGURE = _maybe(_number())
_FIVE = _exactly(5, _FIGURE)
_DISTRIBUTION = _record(
    {
        **dict.fromkeys(("low", "high", "mean", "sd"), _FIGURE),
        "counts": _exactly(40, _COUNT),
        "quantiles": _FIVE,
    }
)
_OF_BATCH_NORM = ("gamma", "beta", "running_mean", "running_var", "sample_mean", "sample_var")
_LAYER = _record(
    {
        "name": _TEXT,
        **dict.fromkeys(("norm", "activation"), _maybe(_TEXT)),
        "units": _COUNT,
        "before": _DISTRIBUTION,
        **dict.fromkeys(("after", "outputs", "gradient"), _maybe(_DISTRIBUTION)),
        **dict.fromkeys(("dead", "saturated"), _maybe(_SHARE)),
        **dict.fromkeys(("weight_norm", "gradient_norm", "update_ratio"), _FIGURE),
        **dict.fromkeys(_OF_BATCH_NORM, _maybe(_FIVE)),
    }
)
LOOKS = _each(_record({"epoch": _whole(-1), "step": _COUNT, "layers": _each(_LAYER)}))

CONFIG = _record(
    {
        **_FORMAT,
        "config": _config,
        "network": _record(
            {"class": _TEXT},
            {
                "in_features": _whole(1, 2**31 - 1),
                "n_classes": _whole(1, 2**31 - 1),
                "dtype": _TEXT,
                "frozen": _each(_TEXT),
                "alteration": _TEXT,
                "layers": _named(_named(_TEXT)),
                "tensors": _named(_maybe(_TEXT)),
            },
            others=True,
        ),
        "dataset": _dataset,
    }
)
ENVIRONMENT = _record({"sessions": _each(_SESSION)})
HISTORY: dict[Task, Check] = {task: _history(scores) for task, scores in _SCORES.items()}
RESULTS: dict[Task, Check] = {task: _results(scores) for task, scores in _SCORES.items()}
STATE: dict[Task, Check] = {
    task: _state(history, _number(high=1) if task == "regression" else _number(-1, 1))
    for task, history in HISTORY.items()
}
POPULATION = _maybe(_record({"data": _TEXT, "method": _TEXT}))  # where they are from, if not from the run itself
PLAN = _record(
    {
        **_FORMAT,
        "config": _config,
        "dataset": _TEXT,
        "split_seed": _SPLIT_SEED,
        "n_seeds": _maybe(_whole(2, 100_000)),
        "session": _SESSION,
    }
)


def check_sessions(values: Any, where: str) -> list[dict[str, Any]]:
    """Return the sessions of what environment.json holds, or raise InputError."""
    sessions: list[dict[str, Any]] = ENVIRONMENT(values, where)["sessions"]
    return sessions
