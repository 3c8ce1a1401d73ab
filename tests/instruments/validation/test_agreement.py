"""validate changes neither model, and refuses inputs that it cannot compare."""

import numpy as np
import pytest

from gradreg_core import DataGrad, SpectReg
from gradreg_core.errors import GradregError, InputError, InputTypeError, SpecError, UnsupportedError
from gradreg_validation import validate
from instruments.validation.ports import IMAGES, Net, X, Y, arrays, images, keras_port, nn, torch


def test_nothing_changes_when_a_call_fails():
    net, model = images().train(), keras_port(images())
    before = [variable.numpy() for variable in model.variables], arrays(net)
    state = torch.random.get_rng_state()

    def fail(outputs, y):
        raise RuntimeError("out of cheese")

    def fine(outputs, y):
        return (outputs**2).sum(-1)

    with pytest.raises(InputError, match=r"second \(tensorflow\) model raised RuntimeError: out of cheese"):
        validate(net, model, IMAGES, Y[:3], loss_fn=(fine, fail), inputs=((0, 3, 1, 2), None))
    assert all(np.array_equal(variable.numpy(), old) for variable, old in zip(model.variables, before[0], strict=True))
    assert all(np.array_equal(value, before[1][name]) for name, value in arrays(net).items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training


def test_a_failure_under_perturbed_weights_restores_keras_variables():
    model = keras_port(images())
    before = [variable.numpy() for variable in model.variables]
    calls = []

    def fail_later(outputs, y):
        calls.append(not np.array_equal(model.variables[0].numpy(), before[0]))
        if calls[-1]:
            raise RuntimeError("late")
        return outputs[:, 0]

    with pytest.raises(InputError, match="late"):
        validate(model, model, IMAGES, Y[:3], SpectReg(1.0), loss_fn=fail_later)
    assert calls[-1]
    assert all(np.array_equal(variable.numpy(), old) for variable, old in zip(model.variables, before, strict=True))


def test_training_mode_is_noted_and_randomness_refused():
    net = images().train()
    report = validate(net, images(), IMAGES.transpose(0, 3, 1, 2), repeats=1)
    assert any("first (torch) model has BatchNorm2d in training mode" in note for note in report.notes)
    with pytest.raises(InputError, match=r"the first \(torch\) model is random"):
        validate(nn.Sequential(nn.Linear(5, 50), nn.Dropout(), nn.Linear(50, 3)), Net(), X)


class Half(nn.Linear):
    def __init__(self, dtype):
        super().__init__(5, 3, dtype=dtype)


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        ((Net(), lambda x: x, X), {}, InputError, "second model: which framework <lambda> belongs to"),
        ((Net(), 3, X), {}, InputTypeError, "callable or a pair"),
        ((Net(), Net(), np.array(["a"])), {}, InputTypeError, "x must hold numbers, got <U1"),
        ((Net(), Net(), X[:0]), {}, InputError, "at least one sample"),
        ((Net(), Net(), X), {"reg": "SpectReg"}, InputTypeError, "reg must be a regularizer"),
        ((Net(), Net(), X), {"repeats": 0}, SpecError, "repeats must be an integer of at least 1"),
        ((Net(), Net(), X), {"reg": DataGrad(1.0)}, GradregError, r"first \(torch\) model: penalty"),
        ((Net(), Net(), X), {"backends": ("numpy", None)}, UnsupportedError, "does not take any function as a model"),
        ((Net(), Half(torch.float16), X), {}, UnsupportedError, "second model: it has parameters of dtype float16"),
        ((Net(), Half(torch.bfloat16), X), {}, UnsupportedError, "bfloat16"),
        ((Net(), Net(), X), {"parameters": ["fc9.bias"]}, InputError, "no parameter 'fc9.bias'.*'fc1.weight'"),
        ((Net(), Net(), X), {"parameters": ["bias"]}, InputError, "or several that end so"),
        ((Net(), Net(), X), {"parameters": [("fc1.bias",)]}, InputTypeError, "got the entry"),
        ((Net(), Net(), X), {"parameters": {"fc1.bias": "fc2.weight"}}, InputError, r"\(8,\) cannot be"),
        (
            (Net(), Net(), X),
            {"parameters": {"fc1.bias": ("mix.bias", (1, 0))}},
            InputError,
            "not permute the axes",
        ),
        ((Net(), Net(), X), {"reg": (SpectReg(1.0), SpectReg(1.0) + SpectReg(2.0))}, InputError, "the same terms"),
        ((Net(), Net(), X), {"layers": ["fc9"]}, InputError, "no layer 'fc9'"),
        ((Net(), nn.Linear(5, 4), X), {}, InputError, r"shapes \(6, 3\) and \(6, 4\)"),
    ],
)
def test_what_is_wrong_is_said(arguments, options, kind, words):
    with pytest.raises(kind, match=words):
        validate(*arguments, **options)
