"""Which steps are timed, and their limits."""

import json

import pytest

from gradreg_bench.variants import BASELINES, PLAIN, Variant, own_variants, variants
from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.schema import to_dict


def test_the_variants():
    names = [variant.name for variant in variants((1, 4))]
    assert names[0] == PLAIN
    assert len(set(names)) == len(names)
    assert set(BASELINES) <= set(names)
    assert "SpectReg k=4" in names
    assert [variant.name for variant in variants((1,), ("Frob*", "DataGrad"))] == [PLAIN, "DataGrad", "FrobReg"]
    with pytest.raises(InputError, match=r"no variant matches 'Nothing\*'; there are DataGrad, "):
        variants((1,), ("Nothing*",))


def test_limits():
    assert Variant("DataGrad every=16", share=1 / 16).limit(0.0, 10) == 1 + 1 / 16
    assert Variant("exact", rows=None).limit(0.0, 7) == 8.0
    assert Variant("unknown", bounded=False).limit(0.0, 7) is None
    assert Variant(PLAIN, rows=0).limit(0.5, 7) == 1.0


def test_a_regularizer_of_ones_own_is_timed_over_a_whole_cycle():
    text = json.dumps(to_dict(DataGrad(2.0, every=3) + SpectReg(0.1, every=2)))
    assert own_variants([("mine", text)])[1].cycle == 6
