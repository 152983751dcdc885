"""Checks of numbers from files. JSON's whole numbers have no limit, and its others may be NaN."""

import math
import sys
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether it is a number of float64, NaN and infinity included."""
    return isinstance(value, float) or (_is_int(value) and abs(value) <= sys.float_info.max)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether it is a finite number of float64."""
    return is_number(value) and math.isfinite(value)


def is_whole(value: Any) -> TypeGuard[int]:
    """Return whether it is a whole number of int64."""
    return _is_int(value) and -(2**63) <= value < 2**63


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
