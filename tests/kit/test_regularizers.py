"""The kit draws every word of the vocabulary, and a check of its own looks at each."""

import pytest

from gradreg_conformance.checks.capabilities import NETWORKS
from gradreg_conformance.checks.terms import GENERAL
from gradreg_conformance.regularizers import CHECKED_ALONE, PHIS, PRESETS, PROJECTIONS
from gradreg_conformance.runner import all_checks
from gradreg_core import norms, outputs, presets, projections
from gradreg_core.norms import Phi
from gradreg_core.portable.networks import LAYERS
from gradreg_core.projections import Projection
from gradreg_core.spec import JacobianTerm, Regularizer

CHECKS = all_checks()


def words(module, kind):
    """The names in `module` of the concrete subclasses of `kind` that users write."""
    members = {name: getattr(module, name) for name in module.__all__}
    return [name for name, member in members.items() if isinstance(member, type) and issubclass(member, kind)]


PROJECTION_NAMES = [name for name in words(projections, Projection) if name != "Projection"]
PHI_NAMES = [name for name in words(norms, Phi) if name != "Phi"]


@pytest.mark.parametrize("name", PROJECTION_NAMES)
def test_a_projection_is_drawn_and_has_a_check(name):
    assert name in PROJECTIONS, f"add {name!r} to gradreg_conformance.regularizers.PROJECTIONS"
    assert {f"projection_{name}", f"gradients_with_{name}"} & set(CHECKS), f"no check is about {name}"


@pytest.mark.parametrize("name", norms.NORMS)
def test_a_norm_has_a_check(name):
    assert name == "l2" or f"norm_{name}" in CHECKS, f"add a check norm_{name} to gradreg_conformance.checks.norms"


@pytest.mark.parametrize("name", outputs.OUTPUTS)
def test_an_output_has_a_check(name):
    assert name == "logits" or f"gradients_of_the_{name}" in CHECKS, f"add a check gradients_of_the_{name}"


@pytest.mark.parametrize("name", PHI_NAMES)
def test_a_phi_is_drawn(name):
    assert name in PHIS, f"add {name!r} to gradreg_conformance.regularizers.PHIS"


@pytest.mark.parametrize("name", words(presets, Regularizer))
def test_a_preset_is_drawn_and_compared_with_its_general_form(name):
    if name in CHECKED_ALONE:
        assert CHECKED_ALONE[name] in CHECKS
        return
    assert name in PRESETS, f"add {name!r} to gradreg_conformance.regularizers.PRESETS"
    general = {type(preset).__name__ for preset in GENERAL}
    if issubclass(getattr(presets, name), JacobianTerm):
        assert name in general, f"add {name!r} to gradreg_conformance.checks.terms.GENERAL"


@pytest.mark.parametrize("layer", sorted(LAYERS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_portable_layer_has_a_network_of_its_own(layer):
    assert layer in NETWORKS, f"add {layer.__name__} to gradreg_conformance.checks.capabilities.NETWORKS"
