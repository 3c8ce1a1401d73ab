"""Models as people have them, each against double backward written by hand in float64, eager and compiled."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradreg_torch
from gradreg_core.inputs import Inputs
from gradreg_core.presets import R1, DataGrad, FrobReg, GradientPenalty, LayerwiseReg, SpectReg
from gradreg_core.projections import exact, ones
from gradreg_core.taps import tap

RIGHT = 1e-11
"""Relative error in norm: float64 sums of thousands of products in another order, and attention's exponentials."""
BATCH = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def squared_norms(of: Tensor, *places: Tensor) -> Tensor:
    """||J_i||_F^2 of each sample with respect to all `places`, by double backward, shape (B,)."""
    total = torch.zeros(len(of), dtype=torch.float64)
    for column in of.flatten(1).unbind(1):
        for gradient in torch.autograd.grad(column.sum(), places, create_graph=True):
            total = total + (gradient**2).flatten(1).sum(1)
    return total


def same(ours: Tensor, wanted: Tensor, model: nn.Module) -> None:
    """Equal values, and equal gradients of all parameters together."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradient(value: Tensor) -> Tensor:
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])

    torch.testing.assert_close(ours, wanted, rtol=RIGHT, atol=0)
    right = gradient(wanted)
    assert right.norm() > 0
    assert (gradient(ours) - right).norm() <= RIGHT * right.norm()


def compiled(call: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    torch._dynamo.reset()
    value: Tensor = torch.compile(call, fullgraph=True, backend="aot_eager")(*arrays)
    return value


# --- a transformer ---------------------------------------------------------------------------------------------------
TOKENS = torch.randint(0, 30, (BATCH, 6), generator=torch.Generator().manual_seed(3))
ATTENDED = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]])
LABELS = torch.tensor([0, 2, 1, 1])


@pytest.fixture(scope="module")
def bert() -> nn.Module:
    """BERT from a configuration, its embeddings frozen."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.5,
        attn_implementation="eager",
    )
    model: nn.Module = transformers.BertForSequenceClassification(config).double()
    model.bert.embeddings.requires_grad_(requires_grad=False)  # type: ignore[union-attr]
    return model


def of_embeddings(model: Any) -> tuple[Tensor, Tensor]:
    """The logits, and the embeddings that they come from."""
    embedded = model.bert.embeddings(input_ids=TOKENS).detach().requires_grad_()
    hidden = embedded
    bias = (1.0 - ATTENDED[:, None, None].double()) * torch.finfo(torch.float64).min
    for layer in model.bert.encoder.layer:
        hidden = layer(hidden, bias)
        hidden = hidden if isinstance(hidden, Tensor) else hidden[0]
    return model.classifier(model.bert.pooler(hidden)), embedded


def test_bert_with_a_mask_and_frozen_embeddings(bert: nn.Module) -> None:
    x = Inputs(input_ids=TOKENS, attention_mask=ATTENDED)
    total, parts = gradreg_torch.loss(bert, x, LABELS, FrobReg(0.5, at="bert.embeddings"))
    logits, embedded = of_embeddings(bert)
    torch.testing.assert_close(parts.outputs.logits, logits)
    same(total, F.cross_entropy(logits, LABELS) + 0.5 * squared_norms(logits, embedded).mean(), bert)


@pytest.mark.parametrize("masked_by", ["arguments", "closure"])
def test_bert_on_a_part_of_the_batch(bert: Any, masked_by: str) -> None:
    """The part is cut with its mask; a mask in a closure cannot be cut, so the model sees the whole batch."""
    reg = SpectReg(1.0, at="bert.embeddings", fraction=0.5)
    if masked_by == "arguments":
        x: Any = Inputs(input_ids=TOKENS, attention_mask=ATTENDED)
        model: Any = bert
    else:
        x, model = TOKENS, lambda tokens: bert(tokens, attention_mask=ATTENDED[: len(tokens)])
    _, parts = gradreg_torch.loss(model, x, LABELS, reg)
    same(parts.loss, F.cross_entropy(bert(TOKENS, attention_mask=ATTENDED).logits, LABELS), bert)
    alone = [
        gradreg_torch.penalty(
            bert,
            Inputs(input_ids=TOKENS[i : i + 1], attention_mask=ATTENDED[i : i + 1]),
            None,
            SpectReg(1.0, at="bert.embeddings"),
            sample_ids=torch.tensor([i]),
        )
        for i in range(BATCH)
    ]
    pairs = [(alone[i] + alone[j]) / 2 for i in range(BATCH) for j in range(i)]
    same(parts.penalty[0], min(pairs, key=lambda pair: abs(float((pair - parts.penalty[0]).detach()))), bert)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks for it
def test_bert_with_adapters_of_low_rank(bert: Any) -> None:
    peft = pytest.importorskip("peft")

    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(bert), config).double()
    x = Inputs(input_ids=TOKENS, attention_mask=ATTENDED)
    place = "base_model.model.bert.embeddings"
    ours = gradreg_torch.penalty(model, x, None, FrobReg(1.0, at=place))
    logits, embedded = of_embeddings(model.base_model.model)
    same(ours, squared_norms(logits, embedded).mean(), model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("lora" in name for name in trained)
    assert not any("embeddings" in name for name in trained)


# --- critics ---------------------------------------------------------------------------------------------------------
class ConditionalCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.condition, self.head = nn.Linear(6, 5), nn.Embedding(3, 5), nn.Linear(5, 1)
        self.double()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.head(torch.tanh(self.image(x)) * self.condition(condition))


@pytest.mark.parametrize("run", ["eager", "compiled"])
def test_a_conditional_critic(run: str) -> None:
    model, x = ConditionalCritic(), random(BATCH, 6)
    reg = GradientPenalty(10.0)

    def penalty(x: Tensor, condition: Tensor) -> Tensor:
        return gradreg_torch.penalty(model, Inputs(x, condition), None, reg, step=0)

    point = x.clone().requires_grad_()
    wanted = 10.0 * ((squared_norms(model(point, LABELS), point).sqrt() - 1) ** 2).mean()
    same(penalty(x, LABELS) if run == "eager" else compiled(penalty, x, LABELS), wanted, model)


class PatchCritic(nn.Module):
    """One output for each patch of an image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3, 1, 1))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("run", ["eager", "compiled"])
def test_r1_on_patches_is_the_gradient_of_their_sum(run: str) -> None:
    model, x = PatchCritic(), random(BATCH, 2, 6, 6)
    reg = R1(10.0, projection=ones())

    def penalty(x: Tensor) -> Tensor:
        return gradreg_torch.penalty(model, x, None, reg, step=0)

    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(point).sum(), point, create_graph=True)
    wanted = 10.0 / 2 * (gradient**2).flatten(1).sum(1).mean()
    same(penalty(x) if run == "eager" else compiled(penalty, x), wanted, model)


# --- graphs, recurrences, codes --------------------------------------------------------------------------------------
class GraphNetwork(nn.Module):
    """A batch of graphs over the same nodes: one sample is one graph, and graphs do not mix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.double()

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        hidden = torch.tanh(adjacency @ self.first(nodes))
        return (adjacency @ self.second(hidden)).mean(1)


@pytest.mark.parametrize("run", ["eager", "compiled"])
def test_a_graph_network_with_its_own_edges(run: str) -> None:
    model, nodes = GraphNetwork(), random(BATCH, 5, 3)
    adjacency = (random(BATCH, 5, 5, seed=1) > 0).double()
    reg = FrobReg(1.0)

    def penalty(nodes: Tensor, adjacency: Tensor) -> Tensor:
        return gradreg_torch.penalty(model, Inputs(nodes, adjacency, wrt="0"), None, reg, step=0)

    point = nodes.clone().requires_grad_()
    wanted = squared_norms(model(point, adjacency), point).mean()
    same(penalty(nodes, adjacency) if run == "eager" else compiled(penalty, nodes, adjacency), wanted, model)


class TimeMajor(nn.Module):
    """An LSTM in PyTorch's own layout, (T, B, F), behind an interface with the batch axis first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.transpose(0, 1))
        states = tap("states", states.transpose(0, 1)).transpose(0, 1)
        return self.head(states[-1])


@pytest.mark.parametrize("reg", [FrobReg(1.0), FrobReg(1.0, at="states"), FrobReg(1.0, of="states")], ids=repr)
def test_a_recurrent_network_that_works_along_time_first(reg: Any) -> None:
    model, x = TimeMajor(), random(BATCH, 3, 3)
    point = x.clone().requires_grad_()
    states = model.lstm(point.transpose(0, 1))[0].transpose(0, 1)
    outputs = model.head(states[:, -1])
    of, at = (states if reg.of else outputs), (states if reg.at else point)
    same(gradreg_torch.penalty(model, x, None, reg), squared_norms(of, at).mean(), model)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, channels, 3, 1, 1), nn.Conv2d(channels, channels, 3, 1, 1)
        self.norm = nn.GroupNorm(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.norm(self.first(x))))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two = nn.Conv2d(1, 4, 3, 2, 1), Block(4), Block(4)
        self.head = nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))).mean((2, 3)))


def test_layer_wise_penalties_of_a_residual_network() -> None:
    model, x = ResNet(), random(2, 1, 6, 6)
    reg = LayerwiseReg(0.1, layers=("stem", "one", "two"), projection=exact())
    _, parts = gradreg_torch.loss(model, x, LABELS[:2], reg)
    stem = model.stem(x)
    one = model.one(stem)
    two = model.two(one)
    wanted = [squared_norms(one, stem).mean(), squared_norms(two, one).mean()]
    assert len(parts.penalty) >= len(wanted)
    by_value = [min(parts.penalty, key=lambda ours, w=value: abs(float((ours - 0.1 * w).detach()))) for value in wanted]
    for ours, value in zip(by_value, wanted, strict=True):
        same(ours, 0.1 * value, model)


def test_a_hinge_on_the_norm_with_respect_to_observations_alone() -> None:
    """A policy: the gradient of the log-probability of the action with respect to the observation, not the command."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    observation, command, action = random(BATCH, 3), random(BATCH, 2, seed=1), random(BATCH, 2, seed=2)

    def policy(observation: Tensor, command: Tensor) -> Tensor:
        return body(torch.cat([observation, command], 1))

    def negative_log_probability(mean: Tensor, action: Tensor) -> Tensor:
        return 0.5 * ((action - mean) ** 2).sum(1)

    x = Inputs(observation, command, wrt="0")
    ours = gradreg_torch.penalty(policy, x, action, DataGrad(1.0), loss_fn=negative_log_probability)
    point = observation.clone().requires_grad_()
    losses = negative_log_probability(policy(point, command), action)
    (gradient,) = torch.autograd.grad(losses.sum(), point, create_graph=True)
    same(ours, (gradient**2).sum(1).mean(), body)
