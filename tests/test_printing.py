"""Text of others on our terminal: shown, never obeyed; JSON that every reader takes."""

import json
import math

import pytest

from batchnorm.printing import json_text, printable, printable_lines, without_folders


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred", "\x07", "a\rb", "\x7f", "\x9b31m", "\x90q", "a\nb", "a\x0bb", "a\x85b", "a\u2028b",  # lines
        "\u202egnp.exe", "\u2066x", "\u200fx", "\u200bx", "\ufeffx", "\udcff", "\U000e0041",
    ],
)  # fmt: skip
def test_what_a_terminal_would_obey_or_hide_is_escaped(text):
    assert printable(text).isprintable()
    assert printable(text).encode("ascii", "backslashreplace").decode("unicode_escape") == text


def test_letters_of_all_languages_stay():
    text = "résumé [bold] ± 数字 :smile: é ‑ \\x1b"
    assert printable(text) == text
    assert printable_lines("a\nb\x1b\n") == "a\nb\\x1b\n"


def test_json_is_strict_and_ascii():
    value = {"a": [math.nan, math.inf, -math.inf], "é\x7f\x9b\u202e\udcff\x1b": (1, "\x7f")}
    text = json_text(value)
    assert text.isascii()
    assert all(line.isprintable() for line in text.splitlines())
    read = json.loads(text, parse_constant=pytest.fail)
    assert read == {"a": [None, None, None], "é\x7f\x9b\u202e\udcff\x1b": [1, "\x7f"]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("kept: /home/me/a b/x.csv, and '/tmp/y z/'", "kept: x.csv, and ''"),
        ("from C:\\Users\\me\\x.npy", "from x.npy"),
        ("runs/a/b of https://a.org/b, 1 / 2", "runs/a/b of https://a.org/b, 1 / 2"),
    ],
)
def test_of_a_path_the_last_part_is_told(text, left):
    assert without_folders(text) == left
