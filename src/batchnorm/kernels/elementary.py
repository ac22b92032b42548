"""What kernels compute with, number by number: elementary functions and random draws.

In float32 they are polynomials and bit operations, which become vector instructions on any processor: numba has no
vector `exp` of its own everywhere. In float64 the functions are the C library's.
"""

import math
from typing import Any

import numba
import numpy as np
from numba.extending import overload

# contract: a·b + c in one instruction. numpy: division by zero gives infinity, and so no branch inside a loop.
OPTIONS: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}

inlined = numba.njit(inline="always", **OPTIONS)  # becomes part of each kernel that calls it


def exp(x):
    """Return e^x; in float32 that of −87 or 88 beyond them. Inside kernels only, as the next two."""
    raise NotImplementedError


def expm1(x):
    """Return e^x − 1, accurate near 0."""
    raise NotImplementedError


def erf(x):
    """Return the error function."""
    raise NotImplementedError


@inlined
def _reduced_exp(x):
    """Return s and q with e^x = s + s·q: s = 2^k, q = e^r − 1, x = k ln 2 + r, |r| ≤ ln 2 / 2."""
    x = np.float32(88) if x > np.float32(88) else x
    x = np.float32(-87) if x < np.float32(-87) else x
    shifted = x * np.float32(1 / math.log(2)) + np.float32(3 << 22)  # its last bits are k, rounded
    k = shifted - np.float32(3 << 22)
    r = x - k * np.float32(0.693359375) - k * np.float32(math.log(2) - 0.693359375)
    q = np.float32(1 / 5040)
    q = q * r + np.float32(1 / 720)
    q = q * r + np.float32(1 / 120)
    q = q * r + np.float32(1 / 24)
    q = q * r + np.float32(1 / 6)
    q = q * r + np.float32(1 / 2)
    exponent = np.int32((np.float32(shifted).view(np.int32) << 23) + 0x3F800000)
    return exponent.view(np.float32), q * r * r + r


@overload(exp)
def _exp_of(x):
    if x is not numba.types.float32:
        return lambda x: math.exp(x)

    def polynomial(x):
        s, q = _reduced_exp(x)
        return s * q + s

    return polynomial


@overload(expm1)
def _expm1_of(x):
    if x is not numba.types.float32:
        return lambda x: math.expm1(x)

    def polynomial(x):
        s, q = _reduced_exp(x)
        return s * q + (s - np.float32(1))

    return polynomial


@overload(erf)
def _erf_of(x):
    if x is not numba.types.float32:
        return lambda x: math.erf(x)

    def polynomial(x):  # erf |x| = 1 − e^(−|x| Q(|x|)); Q: least squares at Chebyshev nodes of [0, 4]
        size = np.float32(4) if abs(x) > np.float32(4) else abs(x)
        q = np.float32(-9.946280810273301e-08)
        q = q * size + np.float32(2.5187375167954184e-06)
        q = q * size + np.float32(-2.83902989905816e-05)
        q = q * size + np.float32(1.8635796681792932e-04)
        q = q * size + np.float32(-7.667069426674112e-04)
        q = q * size + np.float32(1.8134170885226843e-03)
        q = q * size + np.float32(-2.471829491343551e-04)
        q = q * size + np.float32(-1.9128647886697738e-02)
        q = q * size + np.float32(1.0277583572581367e-01)
        q = q * size + np.float32(6.366192343755949e-01)
        q = q * size + np.float32(1.1283791784756894)
        value = -expm1(-size * q)
        return -value if x < 0 else value

    return polynomial


@inlined
def sigmoid(x, one):
    """Return 1 / (1 + e^−x), without overflow."""
    power = exp(-abs(x))
    return (power if x < 0 else one) / (one + power)


@inlined
def log(x):
    """Return ln x for positive float32: x = 2^k m, √½ ≤ m < √2, ln m = 2 artanh((m − 1)/(m + 1))."""
    bits = np.int32(np.float32(x).view(np.int32) - 0x3F3504F3)  # of √½
    k = np.float32(np.int32(bits >> 23))
    m = np.int32((bits & 0x7FFFFF) + 0x3F3504F3).view(np.float32)
    t = (m - np.float32(1)) / (m + np.float32(1))
    square = t * t
    series = np.float32(1 / 9)
    series = series * square + np.float32(1 / 7)
    series = series * square + np.float32(1 / 5)
    series = series * square + np.float32(1 / 3)
    series = series * square + np.float32(1)
    return k * np.float32(math.log(2)) + np.float32(2) * t * series


@inlined
def cos_and_sin(x):
    """Return cos x and sin x for |x| ≤ π/2, by their Taylor series."""
    square = x * x
    cos = np.float32(1 / 479001600)
    cos = cos * square - np.float32(1 / 3628800)
    cos = cos * square + np.float32(1 / 40320)
    cos = cos * square - np.float32(1 / 720)
    cos = cos * square + np.float32(1 / 24)
    cos = cos * square - np.float32(1 / 2)
    sin = np.float32(-1 / 39916800)
    sin = sin * square + np.float32(1 / 362880)
    sin = sin * square - np.float32(1 / 5040)
    sin = sin * square + np.float32(1 / 120)
    sin = sin * square - np.float32(1 / 6)
    return cos * square + np.float32(1), sin * square * x + x


@inlined
def philox(place, key):
    """Return two random 32-bit words: Philox2x32 with ten rounds.

    J. K. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (section 3.3). The counter is the place and
    the key's upper half, the key its lower half.
    """
    left, right = np.uint32(place), np.uint32(key >> 32)
    round_key = np.uint32(key)
    for _ in range(10):
        product = np.uint64(0xD256D193) * np.uint64(left)
        left, right = np.uint32(np.uint32(product >> np.uint64(32)) ^ round_key ^ right), np.uint32(product)
        round_key = np.uint32(round_key + np.uint32(0x9E3779B9))
    return left, right


@inlined
def normal_pair(place, key):
    """Return two independent draws of the standard normal, as G. E. P. Box and M. E. Muller, 1958, do.

    ::

        √(−2 ln u) · (cos 2πv, sin 2πv),   u, v uniform in (0, 1)
    """
    a, b = philox(place, key)
    u = (np.float32(a >> np.uint32(8)) + np.float32(0.5)) * np.float32(2.0**-24)
    radius = np.float32(math.sqrt(np.float32(-2) * log(u)))
    angle = (np.float32(b >> np.uint32(8)) * np.float32(2.0**-24) - np.float32(0.5)) * np.float32(math.pi)
    cos, sin = cos_and_sin(angle)
    return radius * (cos * cos - sin * sin), radius * (np.float32(2) * cos * sin)
