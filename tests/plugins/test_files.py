"""Files that are written whole or not at all."""

import json

import pytest

from gradreg_core.cli import files


def write_half(path):
    with files.replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "numbers.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(OSError, match="disk full"):
        write_half(path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "note.md"
    files.write_text(path, "±\n")
    assert path.read_bytes() == "±\n".encode()
