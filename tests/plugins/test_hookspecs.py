"""Descriptions of backends and commands: what they take, and what they refuse."""

import pytest

from gradreg_core.errors import PluginError
from gradreg_core.plugins.hookspecs import COMPONENTS, BackendDescription, CommandDescription

BACKEND = {"name": "acme", "factory": "a.b:C", "spec_version": 1, "install": "pip install a"}
COMMAND = {"name": "plot", "target": "a.b:c", "summary": "Draw it.", "install": "pip install a"}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "Acme", "name must be lower-case letters, digits, '-' and '_', starting with a letter, such as"),
        ("name", None, "name must be lower-case letters"),
        ("title", "two\nlines", "title must be a name for pages, such as 'PyTorch'; got"),
        ("factory", "acme.backend", "factory must be 'module:callable', such as"),
        ("factory", len, "factory must be 'module:callable', such as"),
        ("modules", ("torch.nn",), r"modules must be a tuple of top-level module names, such as \('torch',\); got"),
        ("array_modules", {"jax": 1}, "array_modules must be a tuple of top-level module names"),
        (
            "model_modules",
            "flax",
            r"model_modules must be a tuple of top-level module names, such as \('flax', 'jax'\)",
        ),
        ("capabilities", "named_activations", "capabilities must be a tuple of names"),
        ("capabilities", (1,), "capabilities must be a tuple of names"),
        ("spec_version", True, "spec_version must be an integer such as 1; got True"),
        ("spec_version", "1", "spec_version must be an integer such as 1; got '1'"),
        ("install", " ", "install must be a command, such as 'pip install acme-gradreg'; got ' '"),
        ("devices", "acme_devices", "devices must be 'module:attribute', such as 'acme_gradreg.devices:Acme'; got"),
    ],
)
def test_a_backends_description_is_validated(field, value, message):
    assert BackendDescription(**BACKEND, modules=["acme"]).modules == ("acme",)
    with pytest.raises(PluginError, match=f"^BackendDescription: {message}"):
        BackendDescription(**{**BACKEND, field: value})


def test_a_backend_brings_nothing_beside_its_calls_unless_it_says_so():
    description = BackendDescription(**BACKEND, array_modules=("acme",))
    assert (description.title, description.model_modules) == ("acme", ("acme",))
    assert {getattr(description, component) for component in COMPONENTS} == {""}
    own = BackendDescription(**BACKEND, title="Acme", array_modules=("acme",), model_modules=("anvil",))
    assert (own.title, own.model_modules) == ("Acme", ("anvil",))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_is_a_target(component):
    assert getattr(BackendDescription(**BACKEND, **{component: "a.b:c.d"}), component) == "a.b:c.d"
    for value in ("a.b", None, "a b:c"):
        with pytest.raises(PluginError, match=f"^BackendDescription: {component} must be 'module:attribute', such as"):
            BackendDescription(**BACKEND, **{component: value})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "name",
            "Plot",
            "name must be lower-case letters, digits, '-' and '_', starting with a letter, such as 'demo'",
        ),
        ("target", "a.b", "target must be 'module:command', such as 'acme_gradreg.command:plot'; got 'a.b'"),
        ("summary", "", "summary must be one line, such as 'Draw the penalty.'; got ''"),
        ("install", None, "install must be a command, such as 'pip install acme-gradreg'; got None"),
    ],
)
def test_a_commands_description_is_validated(field, value, message):
    assert CommandDescription(**COMMAND).name == "plot"
    with pytest.raises(PluginError, match=f"^CommandDescription: {message}"):
        CommandDescription(**{**COMMAND, field: value})
