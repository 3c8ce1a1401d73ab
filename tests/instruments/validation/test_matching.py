"""Names of parameters and layers."""

from gradreg_validation.matching import find_name


def test_a_name_may_be_an_ending_that_is_unique():
    names = ["sequential/fc/kernel", "sequential/fc/bias", "sequential/fc2/bias"]
    assert find_name(names, "fc.kernel") == "sequential/fc/kernel"
    assert find_name(names, "fc/bias") == "sequential/fc/bias"
    assert find_name(names, "bias") is None
    assert find_name(names, "ernel") is None
