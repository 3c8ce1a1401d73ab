"""The code in the pages runs, the tables are those of the specifications, and messages that pages explain exist."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from documents import DOCS, PAGES, ROOT, blocks, run

ELSEWHERE = {
    "calls",
    "choosing",
    "conformance",
    "findings",
    "jax",
    "jax-modules",
    "pytorch",
    "tensorflow",
    "validate",
    "write-a-backend",
}
"""Pages whose code other tests run, and look at what it gives."""
RUNNING = [page for page in PAGES if page.stem not in ELSEWHERE or page.parent != DOCS]
RUNNING = [page for page in RUNNING if page.parent.name not in ("backend", "findings") and blocks(page.read_text())]
MODELS = """
import jax
import jax.numpy as jnp
import keras
import numpy as np
import tensorflow as tf
import torch
import gradreg_jax, gradreg_tensorflow, gradreg_torch
from gradreg_keras import RegularizedModel, SpectReg

images, labels = np.ones((4, 6), "float32"), np.arange(4) % 3
keras_model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(3)])
"""
GIVEN = {
    "PyTorch": """
gradreg, step, model = gradreg_torch, 0, torch.nn.Linear(6, 3)
x, y = torch.tensor(images), torch.tensor(labels)
""",
    "JAX": """
gradreg, step, x, y, params = gradreg_jax, 0, images, labels, jnp.ones((6, 3))
apply = lambda params, x: x @ params
""",
    "TensorFlow": """
gradreg, step, model = gradreg_tensorflow, 0, keras_model
x, y = tf.constant(images), tf.constant(labels)
""",
    "Keras fit": "model, x, y = keras_model, images, labels",
}
"""Names that the tabs of the landing page use without defining them."""


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_code_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page != DOCS / "index.md":
        assert run(page)
        return
    names: dict[str, Any] = {}
    exec(MODELS, names)
    for tab, _, code in blocks(page.read_text()):
        exec(f"{GIVEN[tab]}\n{code}", dict(names))


def test_tabs_have_names_of_their_own(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    tabs = "\n".join(f"````{{tab-item}} {name}\n```python\nvalue = start + '{name}'\n```\n````" for name in ("A", "B"))
    page.write_text(f"```python\nstart = '-'\n```\n{tabs}\n```python\nafter = 1\n```\n")
    names = run(page)
    assert (names["A"]["value"], names["B"]["value"]) == ("-A", "-B")
    assert "after" in names[""]
    assert "after" not in names["B"]


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_regularizers_are_up_to_date() -> None:
    tables = _tables()
    text = tables.PAGE.read_text()
    assert tables.written(text) == text, "run .venv/bin/python docs/tables.py"


def test_the_tables_have_every_regularizer_and_every_argument() -> None:
    from dataclasses import fields

    from gradreg_core import presets

    tables = _tables()
    assert set(tables.WHEN) == {*presets.__all__, "JacobianPenalty"}
    arguments = {field.name for name in tables.WHEN for field in fields(tables.example(name)) if field.init}
    assert set(tables.MEANING) == arguments


def test_the_table_of_arguments_says_which_regularizers_take_which() -> None:
    tables = _tables()
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (all)?(?: but )?(.*?) \| ", tables.arguments(), re.M)
    assert len(rows) == len(tables.MEANING)
    taken: dict[str, set[str]] = {name: set() for name in tables.WHEN}
    for argument, all_of_them, names in rows:
        listed = set(filter(None, names.split(", ")))
        assert listed <= set(taken)
        for name in set(taken) - listed if all_of_them else listed:
            taken[name].add(argument)
    assert taken == {name: set(inspect.signature(type(tables.example(name))).parameters) for name in tables.WHEN}


def _messages() -> str:
    """All strings of the packages, with "..." where values stand in them."""
    parts = []
    for folder in ("gradreg_core", "backends"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts.append("".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    parts.append(node.value)
    return "\n".join(parts)


def test_the_messages_that_are_explained_exist() -> None:
    explained = re.findall(r"^### `(.*)`$", (DOCS / "troubleshooting.md").read_text(), re.M)
    messages = _messages()
    assert len(explained) > 20
    assert not [message for message in explained if message not in messages]
