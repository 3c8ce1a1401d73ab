"""The guide's diff of one's own fit is small, and is the code that the page runs."""

import re

from documents import DOCS, blocks

PAGE = (DOCS / "guides" / "keras.md").read_text()


def test_the_diff_adds_two_lines_to_the_code_of_the_page() -> None:
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.M | re.S)
    lines = diff.splitlines()
    assert [line[0] for line in lines].count("+") == 2
    assert not any(line.startswith("-") for line in lines)
    code = blocks(PAGE)[0][2].splitlines()
    assert {line[1:] for line in lines} <= set(code)
