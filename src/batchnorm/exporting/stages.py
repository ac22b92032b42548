"""The input stage and the outputs of an estimator as torch modules, for torch's own exporter to write.

They compute what `inputs`, `data.Table` and the estimators do, in the same precision and order of rounding. Texts come
as numbers: what turns them into such is in `graphs`, as torch has none.

Constants are buffers: the exporter rounds other numbers to float32, and whole ones are divided in it.
"""

import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchnorm.data import FAR
from batchnorm.inputs import Column, Columns, Numbers, Texts, Times, deviation_of, scale_of, zone_named

DAY = 86_400_000_000  # microseconds
MISSING_TIME = -(2**63)  # numpy's NaT
_YEAR = 365.2425 * DAY
_HOUR = 3_600_000_000
_ZONE_YEARS = (1900, 2100)  # within which the clocks of a zone are known
_ERA = 146_097  # days in 400 years


class Scaling(nn.Module):
    """A table of numbers (batch, columns), standardised and drawn in.

    Parameters
    ----------
    estimator : BatchNormEstimator
    dtype : torch.dtype
        Of the network.
    fills : bool
        Whether a number that is missing is the training's median, as in a table without columns of other kinds.
    """

    mean: Tensor
    deviation: Tensor
    fill: Tensor
    bound: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype, *, fills: bool):
        super().__init__()
        moments, self.dtype = estimator._inputs, dtype
        self.fills, self.draws_in = fills and bool(moments.n), estimator._bound is not None
        self.register_buffer("mean", moments.mean.cpu().clone())
        self.register_buffer("deviation", deviation_of(moments).cpu())
        self.register_buffer("fill", moments.mean.cpu().to(dtype))
        self.register_buffer("bound", torch.tensor(estimator._bound or 0.0, dtype=dtype))

    def forward(self, cells: Tensor) -> Tensor:
        """Return what the network takes."""
        if self.fills:
            cells = torch.where(cells.isnan(), self.fill, cells)
        centered = (cells.double() - self.mean).to(self.dtype)
        scaled = (centered.double() / self.deviation).to(self.dtype)
        if not self.draws_in:
            return scaled
        scaled = scaled.clamp(-FAR, FAR)
        return scaled / ((scaled / self.bound).square() + 1).sqrt()


class ClassOutputs(nn.Module):
    """A classifier's outputs: the number of the class, or 0 or 1 of each label, and probabilities."""

    rates: Tensor

    def __init__(self, estimator: Any):
        super().__init__()
        self.unsmoothed, self.share, self.several = estimator._unsmoothed, estimator._smoothing, estimator._multilabel
        self.register_buffer("rates", estimator._targets.mean.cpu().clone())

    def forward(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels and probabilities (batch, classes)."""
        logits = self.unsmoothed(outputs, self.share, self.rates)
        return ((logits > 0).long(), logits.sigmoid()) if self.several else (logits.argmax(1), logits.exp())


class ValueOutputs(nn.Module):
    """A regressor's outputs: values in the unit of its targets."""

    scale: Tensor
    mean: Tensor
    largest: Tensor

    def __init__(self, estimator: Any, dtype: torch.dtype):
        super().__init__()
        moments = estimator._outputs_scale(estimator._targets)
        self.is_log, self.dtype = estimator.out_activation_ == "exp", dtype
        self.register_buffer("scale", scale_of(moments).cpu())
        self.register_buffer("mean", moments.mean.cpu().clone())
        self.register_buffer("largest", torch.tensor(np.finfo(np.float64).max).log())

    def forward(self, outputs: Tensor) -> tuple[Tensor]:
        """Return values (batch,) or (batch, outputs)."""
        values = outputs.double() * self.scale + self.mean
        if self.is_log:
            values = torch.minimum(torch.maximum(values, -self.largest), self.largest).exp()
        values = values.to(self.dtype)
        return (values[:, 0] if values.shape[1] == 1 else values,)


class FromNumbers(nn.Module):
    """A column of numbers (batch,), NaN where one is missing."""

    median: Tensor

    def __init__(self, learnt: Numbers):
        super().__init__()
        self.varies, self.missing = learnt.varies, learnt.missing
        self.register_buffer("median", torch.tensor(learnt.median, dtype=torch.float64))

    def forward(self, numbers: Tensor) -> list[Tensor]:
        """Return columns (batch, 1) in float64."""
        gaps = numbers.isnan()
        filled = torch.where(gaps, self.median, numbers.double())
        return [filled[:, None]] * self.varies + [gaps.double()[:, None]] * self.missing


class FromTimes(nn.Module):
    """A column of microseconds since 1970 (batch,), in UTC or, where there is no zone, of the clock."""

    center: Tensor
    year: Tensor
    hour: Tensor
    day: Tensor
    instants: Tensor
    offsets: Tensor
    medians: Tensor

    def __init__(self, learnt: Times):
        super().__init__()
        self.parts, self.missing = learnt.parts, learnt.missing
        instants, offsets = zone_offsets(learnt.zone)
        whole = {"center": learnt.center, "instants": instants, "offsets": offsets}
        for name, value in whole.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.int64))
        for name, value in {"year": _YEAR, "hour": _HOUR, "medians": learnt.medians}.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def forward(self, times: Tensor) -> list[Tensor]:
        """Return columns (batch, 1) in float64."""
        gaps = times == MISSING_TIME
        utc = torch.where(gaps, self.center, times)
        clock = utc + self.offsets[0]
        if len(self.instants):
            passed = (utc[:, None] >= self.instants).long().sum(1)
            clock = utc + nn.functional.embedding(passed, self.offsets[:, None])[:, 0]
        days = floor_divide(clock, DAY)
        columns = []
        for i, part in enumerate(self.parts):
            columns.append(torch.where(gaps, self.medians[i], self._part(part, utc, clock, days))[:, None])
        return columns + [gaps.double()[:, None]] * self.missing

    def _part(self, part: str, utc: Tensor, clock: Tensor, days: Tensor) -> Tensor:
        if part == "years":
            return (utc - self.center).double() / self.year
        if part == "month":
            return month_of(days).double()
        return ((days + 3) % 7).double() if part == "weekday" else (clock % DAY).double() / self.hour


class FromTexts(nn.Module):
    """A column of numbers of texts (batch,): those of `keys`, then that of a missing one, then that of any other."""

    places: Tensor
    columns: Tensor
    statistics: Tensor

    def __init__(self, learnt: Texts):
        super().__init__()
        width = len(learnt.values) + learnt.others + learnt.missing
        keys = keys_of(learnt)
        unseen = "?"
        while unseen in keys:
            unseen += "?"
        becomes = learnt.transform(Column(learnt.name, np.array([*keys, None, unseen], dtype=object)))
        taken = becomes[:, :width]
        places = np.where(taken.any(1), taken.argmax(1), width) if width else np.zeros(len(becomes), dtype=np.int64)
        self.register_buffer("places", torch.from_numpy(places.astype(np.int64))[:, None])
        self.register_buffer("columns", torch.arange(width))
        self.register_buffer("statistics", torch.from_numpy(becomes[:, width:].copy()))

    def forward(self, codes: Tensor) -> list[Tensor]:
        """Return columns (batch, any) in float64."""
        found = []
        if len(self.columns):
            found.append((nn.functional.embedding(codes, self.places) == self.columns).double())
        if self.statistics.shape[1]:
            found.append(nn.functional.embedding(codes, self.statistics))
        return found


class FromColumns(nn.Module):
    """The columns of a frame that become something, in their order; `Columns.transform` without its reading."""

    def __init__(self, columns: Columns):
        super().__init__()
        made = {Numbers: FromNumbers, Times: FromTimes, Texts: FromTexts}
        self.readers = nn.ModuleList(made[type(learnt)](learnt) for learnt in used(columns))
        self.dtype = torch.float64 if columns.double else torch.float32

    def forward(self, columns: Sequence[Tensor]) -> Tensor:
        """Return numbers (batch, columns)."""
        found = [part for reader, column in zip(self.readers, columns, strict=True) for part in reader(column)]
        return torch.cat(found, 1).to(self.dtype)


class WithStage(nn.Module):
    """A network behind its input stage."""

    def __init__(self, columns: nn.Module | None, scaling: Scaling | None, network: nn.Module, outputs: nn.Module):
        super().__init__()
        self.columns, self.scaling, self.network, self.outputs = columns, scaling, network, outputs

    def forward(self, inputs: Any) -> Any:
        """Return the outputs for a list of columns, a table or, without any stage, for scaled inputs."""
        cells = inputs if self.columns is None else self.columns(inputs)
        return self.outputs(self.network(cells if self.scaling is None else self.scaling(cells)))


def used(columns: Columns) -> list[Any]:
    """Return what was learnt of those columns that become something."""
    return [learnt for learnt in columns.learnt if learnt.names()]


def keys_of(learnt: Texts) -> list[str]:
    """Return the texts that are told apart."""
    return list(dict.fromkeys([*learnt.values, *learnt.known]))


def floor_divide(numbers: Tensor, by: int) -> Tensor:
    """Return ⌊numbers / by⌋ of whole numbers, exactly: torch's exporter has them divided in float32."""
    multiples = (numbers - numbers % by).double()
    return torch.round(multiples / torch.full_like(multiples, by)).long()


def month_of(days: Tensor) -> Tensor:
    """Return the month, from 1, of a number of days since 1970-01-01.

    References
    ----------
    H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", ``civil_from_days``.
    """
    of_era = (days + 719_468) % _ERA  # since the first of March of a year 0 of 400
    years = floor_divide(
        of_era - floor_divide(of_era, 1_460) + floor_divide(of_era, 36_524) - floor_divide(of_era, 146_096), 365
    )
    of_year = of_era - (365 * years + floor_divide(years, 4) - floor_divide(years, 100))
    return (floor_divide(5 * of_year + 2, 153) + 2) % 12 + 1


def zone_offsets(zone: str | None) -> tuple[list[int], list[int]]:
    """Return when the clocks of a zone change, and how much they are ahead of UTC before the first time and after each.

    All in microseconds; of the years from 1900 to 2100.
    """
    if zone is None:
        return [], [0]
    known = zone_named(zone)
    first, last = (int(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC).timestamp()) for year in _ZONE_YEARS)

    def ahead(second: int) -> int:
        offset = datetime.datetime.fromtimestamp(second, known).utcoffset()
        assert offset is not None
        return round(offset.total_seconds() * 1e6)

    instants, offsets, step = [], [ahead(first)], 7 * 86400
    for begin in range(first, last, step):
        end = begin + step
        while ahead(end) != offsets[-1]:
            low, high = begin, end  # the clocks change after low, at the latest at high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if ahead(middle) == offsets[-1] else (low, middle)
            instants.append(high * 1_000_000)
            offsets.append(ahead(high))
            begin = high
    return instants, offsets
