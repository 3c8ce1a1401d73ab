"""Nested structures: leaves and their paths, structures from other leaves, what a path leads to."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest

from gradreg_core.structures import flatten, follow, joined, restricted

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Record:
    a: Any
    b: Any


STRUCTURES: list[tuple[Any, list[str]]] = [
    (1, [""]),
    ([1, (2, 3)], ["0", "1.0", "1.1"]),
    ({"b": 1, "a": {"c": 2}}, ["a.c", "b"]),
    (OrderedDict(x=1, y=[2]), ["x", "y.0"]),
    (Pair(1, Record(2, [3])), ["first", "second.a", "second.b.0"]),
    ({2: 1, 1: 2}, ["2", "1"]),
    ([], []),
]


@pytest.mark.parametrize(("structure", "paths"), STRUCTURES, ids=repr)
def test_leaves_have_paths_and_come_back(structure: Any, paths: list[str]) -> None:
    leaves, rebuild = flatten(structure, lambda value: False)
    assert [path for path, _ in leaves] == paths
    same = rebuild([leaf for _, leaf in leaves])
    assert same == structure
    assert type(same) is type(structure)
    for path, leaf in leaves:
        assert path == "" or follow(structure, path) == leaf


def test_a_container_may_be_one_leaf() -> None:
    leaves, rebuild = flatten({"a": [1, 2], "b": 3}, lambda value: isinstance(value, list))
    assert leaves == [("a", [1, 2]), ("b", 3)]
    assert rebuild([[4], 5]) == {"a": [4], "b": 5}


def test_restricted_leaves_are_put_back_among_the_others() -> None:
    leaves, rebuild = restricted(*flatten([1, "x", 2], lambda value: False), lambda leaf: isinstance(leaf, int))
    assert leaves == [("0", 1), ("2", 2)]
    assert rebuild([8, 9]) == [8, "x", 9]


@pytest.mark.parametrize("path", ["c", "a.1", "a.x", "a.0.real.y"])
def test_a_path_that_leads_nowhere(path: str) -> None:
    with pytest.raises(KeyError):
        follow({"a": [1]}, path)


def test_paths_are_joined_by_dots() -> None:
    assert (joined("a", "b"), joined("a", ""), joined("", "b")) == ("a.b", "a", "b")
