"""The names that all packages share."""

from gradreg_core import errors, norms, outputs, presets, projections, spec, vocabulary

MODULES = (errors, norms, outputs, presets, projections, spec)


def test_the_vocabulary_is_what_the_modules_of_the_specification_export():
    words = [*("Inputs", "Measures", "Parts", "tap"), *(name for module in MODULES for name in module.__all__)]
    assert sorted(vocabulary.WORDS) == sorted(words)
    assert len(set(words)) == len(words)
    for module in MODULES:
        for name in module.__all__:
            assert getattr(vocabulary, name) is getattr(module, name)


def test_every_projection_and_phi_is_a_word():
    for module, base in ((projections, projections.Projection), (norms, norms.Phi)):
        written = {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
        assert {name for name in written if name.islower() and not name.startswith("_")} <= set(module.__all__)
