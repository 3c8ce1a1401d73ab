"""A proposed map of parameters is confirmed or answered, never guessed."""

import numpy as np
import pytest

from gradreg_core.errors import InputError, InputTypeError
from gradreg_validation import propose, validate
from gradreg_validation.proposal import confirmed, proposal_for
from instruments.validation.ports import JAX_NAMES, Net, X, jax_port

draw = np.random.default_rng(0).normal


@pytest.mark.slow
def test_values_names_and_layers_tell():
    apply, params, _ = jax_port(Net())
    proposal = propose(Net(), (apply, params))
    assert dict(proposal.pairs) == JAX_NAMES
    assert not proposal.ambiguous
    assert "('fc1.weight', 'fc1.kernel'),  # by values" in str(proposal)
    silent = validate(Net(), (apply, params), X, repeats=1)
    assert any("'fc1.weight'" in note for note in silent.notes if note.startswith("not compared"))
    assert any('mapping="proposed"' in note for note in silent.notes)
    confirmed = validate(Net(), (apply, params), X, mapping="proposed", repeats=1)
    assert not any(note.startswith("not compared") for note in confirmed.notes)
    assert validate(Net(), (apply, params), X, parameters=proposal, repeats=1).ok


def test_what_is_ambiguous_is_asked():
    first = {"a.weight": draw(size=(3, 3)), "b.weight": draw(size=(3, 3))}
    second = {"c.kernel": draw(size=(3, 3)), "d.kernel": draw(size=(3, 3))}
    proposal = proposal_for(first, second)
    assert proposal.pairs == ()
    assert proposal.ambiguous == dict.fromkeys(first, ("c.kernel", "d.kernel"))
    with pytest.raises(InputError, match=r"is 'a\.weight': 'c\.kernel', 'd\.kernel'\?"):
        list(proposal)


def test_an_order_that_no_permutation_of_axes_gives_is_proposed():
    dense = draw(size=(2, 12))
    turned = dense.reshape(2, 3, 4).transpose(2, 1, 0).reshape(12, 2)
    ((_, _, how),) = proposal_for({"fc.weight": dense}, {"fc.kernel": turned}).pairs
    assert how == {"reshape": (2, 3, 4), "axes": (2, 1, 0)}
    gates = np.split(draw(size=(6, 2)), 3)
    ((_, _, how),) = proposal_for(
        {"w": np.concatenate(gates)}, {"w": np.concatenate([gates[i] for i in (1, 0, 2)]).T}
    ).pairs
    assert how == {"blocks": (1, 0, 2), "axis": 0, "axes": (1, 0)}


def test_two_biases_whose_sum_the_other_model_has_are_left_out():
    one, two, kernel = draw(size=8), draw(size=8), draw(size=(8, 3))
    first = {"rnn.weight_ih": kernel, "rnn.bias_ih": one, "rnn.bias_hh": two}
    gates = np.concatenate([np.split(one + two, 4)[i] for i in (0, 2, 1, 3)])
    proposal = proposal_for(first, {"cell.kernel": kernel.T, "cell.bias": gates})
    assert [pair[:2] for pair in proposal.pairs] == [("rnn.weight_ih", "cell.kernel")]
    assert proposal.sums == (("rnn.bias_ih", "rnn.bias_hh", "cell.bias"),)
    assert not proposal.ambiguous
    assert "'rnn.bias_ih' plus 'rnn.bias_hh' is 'cell.bias' of the other model" in str(proposal)


def test_none_leaves_a_parameter_out():
    first, second = {"a.weight": draw(size=(3, 3))}, {"c.kernel": draw(size=(3, 3)), "d.kernel": draw(size=(3, 3))}
    assert confirmed(proposal_for(first, second), {"a.weight": None}) == []


def test_a_mapping_of_another_kind_is_refused():
    with pytest.raises(InputTypeError, match='must be "proposed" or a dict'):
        validate(Net(), Net(), X, mapping=True)
