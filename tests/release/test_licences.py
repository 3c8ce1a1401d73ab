"""The page of licences has every pinned package, in its version, with the licence that its metadata say."""

import re
from importlib import metadata

from documents import DOCS, ROOT


def plain(name):
    """A distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def rows():
    lines = [line for line in (DOCS / "licences.md").read_text().splitlines() if line.startswith("| ")][2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_the_page_has_what_is_pinned():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    listed = {plain(name): version for name, version, _ in rows()}
    assert listed == {plain(name): version for name, version in pins.items()}


def test_the_licences_are_those_of_the_metadata():
    compared = 0
    for name, version, licence in rows():
        assert licence not in ("", "UNKNOWN"), name
        try:
            values = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        if values["Version"].partition("+")[0] == version and "License-Expression" in values:
            assert values["License-Expression"] == licence, name
            compared += 1
    assert compared
