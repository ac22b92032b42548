"""The encoding of a text, recognised in a sample of it."""

import codecs

from batchnorm.errors import InputError

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before that of UTF-16, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What tables are written in by programs that do not write Unicode; the first that reads a sample the same is taken.
_KNOWN = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "koi8_r", "mac_roman", "cp850", "cp437", "cp932",
    "gb18030", "big5", "cp949", "euc_jp", "latin_1",
]  # fmt: skip
_DETECTED_BYTES = 1 << 16
_SAME = 0.05  # a difference of coherence, from 0 to 1, that says nothing
_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿŒœŠšŽž€°§²³½¼µ«»„“”‘’–—…ºª£©®±·×\xa0")


def encoding_of(sample: bytes, name: str, *, is_whole: bool) -> str:
    """Return the encoding of a text that begins with, or is, the sample.

    Raises
    ------
    InputError
        If it is no text.
    """
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return encoding
    if b"\0" in sample:
        return _of_two_bytes(sample, name)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample, final=is_whole)
    except UnicodeDecodeError:
        return encoding_with(sample, name)
    return "utf-8"


def encoding_with(sample: bytes, name: str) -> str:
    """Return the encoding of a text, not UTF-8, that holds the sample."""
    from charset_normalizer import from_bytes

    foreign = b"\n".join(line for line in sample.splitlines() if not line.isascii())[:_DETECTED_BYTES]
    matches = from_bytes(foreign, cp_isolation=list(_KNOWN), enable_fallback=False)
    best = matches.best()
    as_good = {
        encoding
        for match in matches
        if best and match.coherence > best.coherence - _SAME
        for encoding in match.could_be_from_charset
    }
    # Of a text that is short, or reads well in several, no language tells: then the usual one, if it has only letters.
    if (best is None or not best.coherence or "cp1252" in as_good) and _is_western(foreign):
        return "cp1252"
    if best is None:
        raise InputError(f"{name} is neither UTF-8 nor of another encoding that is recognised: save it as UTF-8")
    return next(encoding for encoding in _KNOWN if encoding in best.could_be_from_charset)


def _is_western(sample: bytes) -> bool:
    try:
        return all(sign.isascii() or sign in _WESTERN for sign in sample.decode("cp1252"))
    except UnicodeDecodeError:
        return False


def _of_two_bytes(sample: bytes, name: str) -> str:
    """Return which UTF-16 a text without a mark is: signs of European languages have a zero in every second byte."""
    high, low = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if low > half * 0.3 and high < half * 0.01:
        return "utf-16-le"
    if high > half * 0.3 and low < half * 0.01:
        return "utf-16-be"
    raise InputError(f"{name} holds NUL bytes: it is damaged, or no text")
