"""Activations of a model by name."""

import torch
from torch import nn

import gradreg_torch as gradreg
from torch_cases import batch, gradients, make


def test_a_hidden_activation_by_name_equals_passing_the_head() -> None:
    model, (x, y) = make(), batch()
    named = gradreg.penalty(model, x, y, gradreg.DataGrad(1.0, at="1"))
    hidden = model[:2](x)
    headed = gradreg.penalty(model[2:], hidden, y, gradreg.DataGrad(1.0))
    torch.testing.assert_close(named, headed)
    torch.testing.assert_close(gradients(named, model), gradients(headed, model))
    both = gradreg.penalty(model, x, y, gradreg.DataGrad(1.0, at="1") + gradreg.DataGrad(1.0))
    torch.testing.assert_close(both, named + gradreg.penalty(model, x, y, gradreg.DataGrad(1.0)))


def test_tokens_are_penalised_at_their_embedding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    tokens, y = torch.randint(10, (6, 3)), batch()[1]
    total, _ = gradreg.loss(model, tokens, y, gradreg.DataGrad(1.0, at="0"))
    head = gradreg.loss(model[1:], model[0](tokens), y, gradreg.DataGrad(1.0))[0]
    torch.testing.assert_close(total, head)
    assert (gradients(total, model) != 0).any()
