"""What a file holds: recognised by its first bytes, which do not lie, and else by its name."""

import re
from pathlib import Path

from batchnorm.errors import InputError

# By suffix. Behind those of text may stand one of COMPRESSIONS.
FORMATS = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".txt": "delimited",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonlines",
    ".ndjson": "jsonlines",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
TEXTUAL = ("delimited", "jsonlines")
IN_WORDS = {"delimited": "delimited text", "jsonlines": "JSON lines", "parquet": "Parquet", "arrow": "Arrow"}
_AS_CSV = "save the table as CSV"
# Patterns of first bytes; those that are letters are followed by what no text has, which may begin with them too.
_COMPRESSED = {rb"\x1f\x8b": "gzip", rb"\x28\xb5\x2f\xfd": "zstd", rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "bz2"}
_COLUMNAR = {rb"PAR1(?![\t\n\r -~]|$)": "parquet", rb"ARROW1\0": "arrow", rb"\xff\xff\xff\xff": "arrow"}
_FOREIGN = {
    rb"PK\x03\x04(?s:.{26})[^/]{1,80}?\.npy": (
        "a file of numpy arrays",
        "train on it without --target; columns of a table have names",
    ),
    rb"PK\x03\x04": ("a zip archive, as Excel's .xlsx is", f"unpack it, or {_AS_CSV}"),
    rb"\xd0\xcf\x11\xe0": ("an old Excel or Word file", _AS_CSV),
    rb"\xfd7zXZ\x00": ("compressed with xz", "unpack it first"),
    rb"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it first"),
    rb"PARE(?![\t\n\r -~]|$)": ("an encrypted Parquet file", "decrypt it first"),
    rb"FEA1(?![\t\n\r -~]|$)": (
        "a Feather file of version 1",
        "write it again as version 2, as pyarrow and pandas now do",
    ),
    rb"SQLite format 3\x00": ("an SQLite database", _AS_CSV),
    rb"\x89HDF": ("an HDF5 file", _AS_CSV),
    rb"Obj\x01": ("an Avro file", "write it as Parquet"),
    rb"\x93NUMPY": ("a numpy array", "write it with the names of its columns, as CSV or Parquet"),
    rb"%PDF-\d": ("a PDF file", _AS_CSV),
    rb"\x89PNG": ("an image", "give the folder that holds it, with a sub-folder per class"),
    rb"\xff\xd8\xff": ("an image", "give the folder that holds it, with a sub-folder per class"),
}


def compression_of(head: bytes) -> str | None:
    """Return how a file is compressed whose first bytes are these."""
    return next((name for magic, name in _COMPRESSED.items() if re.match(magic, head)), None)


def kind_by_name(path: Path) -> str | None:
    """Return the kind of table that a file's name promises, or None."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def kind_by_content(head: bytes, name: str) -> str | None:
    """Return the kind of table that the first bytes, unpacked, show, or None for what may be text.

    Raises
    ------
    InputError
        If they are those of a kind that is not read.
    """
    for magic, kind in _COLUMNAR.items():
        if re.match(magic, head):
            return kind
    for magic, (what, remedy) in _FOREIGN.items():
        if re.match(magic, head):
            raise InputError(f"{name} is {what}: {remedy}")
    return None


def kind_of_text(text: str, by_name: str | None, name: str) -> str:
    """Return the kind of a text, which begins so; where it looks like JSON, the name is not believed."""
    start = text.lstrip()[:2]
    if start.startswith("["):
        if by_name == "delimited":
            return by_name
        raise InputError(
            f"{name} begins with '[', expected one JSON object a line: write it as JSON lines "
            "(pandas: to_json(…, orient='records', lines=True))"
        )
    if start.startswith("{") and text.lstrip()[1:].lstrip()[:1] in ('"', "}"):
        return "jsonlines"
    if start.startswith("<") and text.lstrip()[:5].lower() in ("<?xml", "<html", "<!doc"):
        raise InputError(f"{name} is a page or document of XML or HTML: {_AS_CSV}")
    return by_name or "delimited"
