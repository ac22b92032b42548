"""Dates by arithmetic, which ONNX has: the day, its month, the clocks of a time zone.

Whole numbers are divided in float64, as torch's exporter has them divided in float32. What they are divided by is exact
in float32, to which it rounds plain numbers.
"""

import datetime

import torch
from torch import Tensor

from batchnorm.inputs import zone_named

DAY = 86_400_000_000  # microseconds
_ZONE_YEARS = (1900, 2100)  # within which the clocks of a zone are known
_ERA = 146_097  # days in 400 years


def days_of(times: Tensor) -> Tensor:
    """Return the days since 1970-01-01 (float64) of microseconds: whole days are divided, whose number is exact."""
    return ((times - times % DAY).double() / DAY).round()


def month_of(days: Tensor) -> Tensor:
    """Return the month, from 1, of days since 1970-01-01.

    References
    ----------
    H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", ``civil_from_days``.
    """
    since = days + 719_468  # the first of March of a year 0
    of_era = since - _ERA * (since / _ERA).floor()
    years = ((of_era - (of_era / 1_460).floor() + (of_era / 36_524).floor() - (of_era / 146_096).floor()) / 365).floor()
    of_year = of_era - (365 * years + (years / 4).floor() - (years / 100).floor())
    from_march = ((5 * of_year + 2) / 153).floor()
    return from_march + torch.where(from_march < 10, 3, -9)


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
