"""The words of a specification."""

from gradreg_core import norms, outputs, presets, projections, spec, vocabulary


def test_the_vocabulary_is_the_specification():
    words = {name for name in projections.__all__ if name.islower()}
    shapes = {name for name in norms.__all__ if name.islower() and issubclass_of_shape(getattr(norms, name))}
    not_a_word = {"Batch"}  # what a term is evaluated on
    expected = {*spec.__all__, *presets.__all__, *words, *shapes, "OUTPUTS"} - not_a_word
    assert set(vocabulary.__all__) == expected
    assert len(vocabulary.__all__) == len(expected)
    modules = {"spec": spec, "presets": presets, "projections": projections, "norms": norms, "outputs": outputs}
    for name in vocabulary.__all__:
        assert any(getattr(module, name, None) is getattr(vocabulary, name) for module in modules.values()), name


def issubclass_of_shape(value):
    return isinstance(value, type) and issubclass(value, norms.Phi)
