"""The reference has a rule of its own for every word of a specification, and shares no arithmetic with the engine."""

import ast
import inspect
from pathlib import Path

import pytest

import gradreg_numpy
from gradreg_core import vocabulary
from gradreg_core.norms import NORMS, Phi
from gradreg_core.outputs import OUTPUTS
from gradreg_core.portable.networks import ACTIVATIONS, LAYERS, Residual
from gradreg_core.projections import Projection
from gradreg_core.spec import Term
from gradreg_numpy import layers, norms, outputs
from gradreg_numpy.layers import linearize
from gradreg_numpy.oracle import term_value
from gradreg_numpy.projections import ROWS

WORDS = [getattr(vocabulary, name) for name in vocabulary.__all__]
CLASSES = [word for word in WORDS if inspect.isclass(word)]
SOURCES = sorted(Path(gradreg_numpy.__file__).parent.glob("*.py"))
SHARED = {
    "gradreg_core": {"__version__", "vocabulary"},
    "gradreg_core.errors": None,
    "gradreg_core.host_draws": None,
    "gradreg_core.norms": {"Phi", "hinge", "identity", "target"},
    "gradreg_core.plugins.hookspecs": None,
    "gradreg_core.portable": {"networks"},
    "gradreg_core.portable.networks": None,
    "gradreg_core.preflight": {"CheckReport", "Finding"},
    "gradreg_core.presets": None,
    "gradreg_core.projections": None,
    "gradreg_core.random": None,
    "gradreg_core.results": None,
    "gradreg_core.signatures": {"with_named_errors"},
    "gradreg_core.spec": None,
    "gradreg_core.vocabulary": None,
}
"""Modules of gradreg_core that the reference may import: specifications, draws, network descriptions; None: all."""


def of_kind(*bases):
    return {word for word in CLASSES if issubclass(word, bases) and word not in bases}


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (ROWS, of_kind(Projection)),
        (norms.PHIS, of_kind(Phi)),
        (norms.NORMS, set(NORMS)),
        (outputs.OUTPUTS, set(OUTPUTS)),
        (layers.ACTIVATIONS, set(ACTIVATIONS)),
    ],
    ids=["projections", "phi", "norms", "outputs", "activations"],
)
def test_every_word_of_the_vocabulary_has_a_rule(rules, words):
    assert words
    assert set(rules) == words


@pytest.mark.parametrize(
    ("rule", "classes"), [(term_value, of_kind(Term)), (linearize, LAYERS - {Residual})], ids=["terms", "layers"]
)
def test_every_term_and_layer_has_a_rule(rule, classes):
    assert classes
    missing = sorted(kind.__name__ for kind in classes if rule.dispatch(kind) is rule.dispatch(object))
    assert not missing, f"write a rule in {rule.__module__} for {', '.join(missing)}"


def imported(tree):
    """(module, names) of every import of a module's source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", {alias.name for alias in node.names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_module_of_the_reference_shares_no_arithmetic_with_the_engine(path):
    tree = ast.parse(path.read_text())
    for module, names in imported(tree):
        assert module.split(".")[0] not in ("torch", "jax", "tensorflow", "scipy"), module
        if module.split(".")[0] == "gradreg_core":
            assert module in SHARED, module
            assert SHARED[module] is None or names <= SHARED[module], (module, names)
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert not called & {"directions", "apply", "value_of"}, "the specification's own arithmetic is the engine's"
