"""Pages whose Python runs and prints what stands below it.

``python tests/pages_that_run.py docs/howto/*.md`` writes below each block what it prints now.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

BLOCKS = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def run(text):
    """Return for each block of Python on a page what the page shows below it, and what it prints."""
    namespace = {"__name__": "page"}
    outcomes = []
    for block in BLOCKS.finditer(text):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], "page", "exec"), namespace)
        outcomes.append((block["shown"] or "", printed.getvalue()))
    return outcomes


def are_same(shown, printed):
    """Whether two texts agree but for what the processor makes of a number: a tenth of it, or 0.03."""
    words = [NUMBER.sub("#", text) for text in (shown, printed)]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (shown, printed)]
    return words[0] == words[1] and all(
        abs(one - other) <= max(0.03, 0.1 * abs(one)) for one, other in zip(*numbers, strict=True)
    )


def renew(path):
    """Write below each block of a page what it prints."""
    text = path.read_text()
    outcomes = iter(run(text))

    def block(match):
        _, printed = next(outcomes)
        return f"```python\n{match['code']}```\n" + (f"\n```text\n{printed}```\n" if printed else "")

    path.write_text(BLOCKS.sub(block, text))


if __name__ == "__main__":
    for page in sys.argv[1:]:
        renew(Path(page))
