"""Weights of positions and ignored labels, against losses and double backward written by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradreg_torch
from double_backward import EXACT, equal_with_gradients
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, HoffmanReg, JacReg, SpectReg
from gradreg_core.projections import exact, fisher, orthonormal, rademacher, random_onehot, sphere
from gradreg_core.spec import JacobianPenalty

BATCH, LENGTH, CLASSES = 4, 3, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(BATCH, LENGTH, 2, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([[0, 1, -100], [3, -100, -100], [2, 2, 1], [-100, -100, -100]])
COUNTS = LABELS != -100
WEIGHTS = torch.tensor([[0.5, 1.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.25, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)


class Tagger(nn.Module):
    """Logits of each token, which depend on all tokens of the sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rnn, self.head = nn.RNN(2, 5, batch_first=True, bidirectional=True), nn.Linear(10, CLASSES)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


MODEL = Tagger()


def same(ours: Tensor, wanted: Tensor) -> None:
    equal_with_gradients(ours, wanted, MODEL, atol=1e-14)


def squared_norms(outputs: Tensor, x: Tensor) -> Tensor:
    """||J_i||_F^2 of outputs (B, m), shape (B,)."""
    gradients = [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in outputs.unbind(1)]
    return sum((gradient**2).sum((1, 2)) for gradient in gradients)


def mean_of_loss(weight: Tensor) -> Tensor:
    losses = F.cross_entropy(MODEL(X).movedim(2, 1), LABELS.clamp(min=0), reduction="none")
    return (weight * losses).sum() / weight.sum()


def of_term(name: str, weight: Tensor) -> Tensor:
    """sum_i n_i v_i / sum_i n_i with n_i the sum of sample i's weights."""
    x = X.clone().requires_grad_()
    z = MODEL(x)
    counts, total = (weight > 0).double(), weight.sum(1)
    if name == "logits":
        values = squared_norms((z * counts[..., None]).flatten(1), x)
    elif name == "probabilities":
        values = squared_norms((z.softmax(-1) * counts[..., None]).flatten(1), x)
    else:
        losses = F.cross_entropy(z.movedim(2, 1), LABELS.clamp(min=0), reduction="none")
        own = (weight * losses).sum(1) / total.clamp(min=1e-300)
        values = squared_norms(own[:, None], x)
    return (total * values).sum() / total.sum()


TERMS = {"logits": FrobReg(1.0), "probabilities": JacReg(1.0), "loss": DataGrad(1.0)}


@pytest.mark.parametrize("name", TERMS)
def test_positions_have_weights_in_the_loss_and_in_every_penalty(name: str) -> None:
    labels = LABELS.clamp(min=0)
    options: dict[str, Any] = {"class_axis": -1, "position_weight": WEIGHTS}
    _, parts = gradreg_torch.loss(MODEL, X, labels, TERMS[name], **options)
    same(parts.loss, mean_of_loss(WEIGHTS))
    same(parts.penalty[0], of_term(name, WEIGHTS))
    same(gradreg_torch.penalty(MODEL, X, labels, TERMS[name], **options), of_term(name, WEIGHTS))


@pytest.mark.parametrize("name", TERMS)
def test_ignored_labels_count_nowhere(name: str) -> None:
    _, parts = gradreg_torch.loss(MODEL, X, LABELS, TERMS[name], class_axis=-1, ignore_index=-100)
    same(parts.loss, F.cross_entropy(MODEL(X).movedim(2, 1), LABELS, ignore_index=-100))
    same(parts.penalty[0], of_term(name, COUNTS.double()))


def test_both_together_multiply() -> None:
    loss = gradreg_torch.loss(MODEL, X, LABELS, None, class_axis=-1, ignore_index=-100, position_weight=WEIGHTS + 1)[1]
    same(loss.loss, mean_of_loss((WEIGHTS + 1) * COUNTS))


def test_a_label_of_any_number_is_ignored_for_images_of_labels() -> None:
    labels = torch.where(COUNTS, LABELS, 255)
    loss = gradreg_torch.loss(MODEL, X, labels, None, class_axis=-1, ignore_index=255)[0]
    same(loss, F.cross_entropy(MODEL(X).movedim(2, 1), labels, ignore_index=255))


def test_ignored_samples_of_a_classifier() -> None:
    labels = torch.tensor([0, -100, 2, 1])

    def classifier(x: Tensor) -> Tensor:
        return MODEL(x)[:, 0]

    kept = labels != -100
    total, parts = gradreg_torch.loss(classifier, X, labels, FrobReg(1.0), ignore_index=-100)
    same(parts.loss, F.cross_entropy(classifier(X), labels, ignore_index=-100))
    x = X.clone().requires_grad_()
    same(total - parts.loss, squared_norms(classifier(x), x)[kept].mean())


def test_the_weights_of_samples_and_positions_multiply_and_a_normalizer_replaces_their_sum() -> None:
    sample_weight = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    both = WEIGHTS * sample_weight[:, None]
    labels = LABELS.clamp(min=0)
    options: dict[str, Any] = {"class_axis": -1, "position_weight": WEIGHTS, "sample_weight": sample_weight}
    _, parts = gradreg_torch.loss(MODEL, X, labels, FrobReg(1.0), **options)
    same(parts.loss, mean_of_loss(both))
    _, halves = gradreg_torch.loss(MODEL, X, labels, FrobReg(1.0), normalizer=float(both.sum()) * 2, **options)
    same(halves.loss * 2, parts.loss)
    same(halves.penalty[0] * 2, parts.penalty[0])


def test_parts_of_a_batch_add_up_with_the_number_of_tokens_as_normalizer() -> None:
    """Gradient accumulation over micro-batches of unequal numbers of tokens."""
    reg, options = SpectReg(1.0), {"class_axis": -1, "ignore_index": -100}
    whole = gradreg_torch.loss(MODEL, X, LABELS, reg, **options)[0]  # type: ignore[arg-type]
    parts = [
        gradreg_torch.loss(
            MODEL,
            X[ids],
            LABELS[ids],
            reg,
            sample_ids=ids,
            normalizer=int(COUNTS.sum()),
            **options,  # type: ignore[arg-type]
        )[0]
        for ids in (torch.tensor([0, 1]), torch.tensor([2, 3]))
    ]
    same(parts[0] + parts[1], whole)


def test_a_custom_loss_of_each_position() -> None:
    def loss_fn(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.movedim(2, 1), y, reduction="none", ignore_index=-100)

    for reg in (DataGrad(1.0), DataGrad(1.0, side="input", seed=3)):
        builtin = gradreg_torch.loss(MODEL, X, LABELS, reg, class_axis=-1, ignore_index=-100)[1]
        custom = gradreg_torch.loss(MODEL, X, LABELS, reg, class_axis=-1, ignore_index=-100, loss_fn=loss_fn)[1]
        same(custom.loss, builtin.loss)
        same(custom.penalty[0], builtin.penalty[0])


def test_a_loss_that_leaves_labels_out_by_itself_is_refused_and_the_remedy_works() -> None:
    def loss_fn(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.movedim(2, 1), y, reduction="none", ignore_index=-100)

    with pytest.raises(InputError, match=r"y holds the label -100, which loss_fn leaves out.*Pass ignore_index=-100"):
        gradreg_torch.loss(MODEL, X, LABELS, None, class_axis=-1, loss_fn=loss_fn)
    with pytest.raises(InputError, match=r"leave padded or unlabelled positions out with ignore_index=-100"):
        gradreg_torch.loss(MODEL, X, LABELS, None, class_axis=-1)
    modular = nn.CrossEntropyLoss(ignore_index=2, reduction="none")
    with pytest.raises(InputError, match=r"label 2, which loss_fn leaves out"):
        gradreg_torch.loss(lambda x: MODEL(x)[:, 0], X, torch.tensor([0, 2, 1, 1]), None, loss_fn=modular)


@pytest.mark.parametrize(
    "projection",
    [
        *(kind(k=2, unbiased=unbiased) for kind in (sphere, orthonormal) for unbiased in (True, False)),
        rademacher(),
        fisher(),
        exact(),
    ],
    ids=repr,
)
def test_masked_positions_neither_count_nor_draw(projection: Any) -> None:
    """A sample with masked positions has the penalty of the sample without them, which draws on fewer components."""
    reg = JacobianPenalty(1.0, projection=projection)
    counts = torch.tensor([[1.0, 1.0, 0.0]] * BATCH, dtype=torch.float64)

    def shorter(x: Tensor) -> Tensor:
        return MODEL(x)[:, :2]

    masked = gradreg_torch.penalty(MODEL, X, None, reg, class_axis=-1, position_weight=counts)
    same(masked, gradreg_torch.penalty(shorter, X, None, reg, class_axis=-1))


@pytest.mark.parametrize("k", [4, 5, 6])
def test_more_orthonormal_rows_than_components_that_count_are_all_of_them(k: int) -> None:
    """Four components count; any orthonormal frame of them has the whole Jacobian's norm."""
    counts = torch.tensor([[1.0, 0.0, 0.0]] * BATCH, dtype=torch.float64)
    options: dict[str, Any] = {"class_axis": -1, "position_weight": counts}
    wanted = gradreg_torch.penalty(MODEL, X, None, FrobReg(1.0), **options)
    same(gradreg_torch.penalty(MODEL, X, None, JacobianPenalty(4.0, projection=orthonormal(k)), **options), wanted)
    unbiased = JacobianPenalty(1.0, projection=orthonormal(k, unbiased=True))
    same(gradreg_torch.penalty(MODEL, X, None, unbiased, **options), wanted)


@pytest.mark.parametrize("unbiased", [True, False])
def test_a_random_basis_vector_is_drawn_among_the_components_that_count(unbiased: bool) -> None:
    """Each of the 8 components of two positions comes in an eighth of 800 steps: 100, with a deviation below 10."""
    counts = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    kept = torch.cat([torch.arange(4), torch.arange(8, 12)])
    exact_norms = squared_norms_of_components()[kept] * (8 if unbiased else 1)
    reg = JacobianPenalty(1.0, projection=random_onehot(unbiased=unbiased))
    values = torch.stack(
        [
            gradreg_torch.penalty(MODEL, X[:1], None, reg, step=step, class_axis=-1, position_weight=counts).detach()
            for step in range(800)
        ]
    )
    closest = (values[:, None] - exact_norms).abs() / exact_norms
    assert closest.min(1).values.max() < EXACT
    frequencies = closest.argmin(1).bincount(minlength=8)
    assert frequencies.min() > 50
    assert frequencies.max() < 150


def squared_norms_of_components() -> Tensor:
    """The squared norm of each row of the first sample's Jacobian."""
    x = X[:1].clone().requires_grad_()
    columns = MODEL(x).flatten(1).unbind(1)
    return torch.stack([(torch.autograd.grad(column.sum(), x, retain_graph=True)[0] ** 2).sum() for column in columns])


def test_the_convention_of_hoffman_counts_the_components_that_are_left() -> None:
    counts = torch.tensor([[1.0, 0.0, 0.0]] * BATCH, dtype=torch.float64)
    masked = gradreg_torch.penalty(MODEL, X, None, HoffmanReg(1.0), class_axis=-1, position_weight=counts)
    same(masked, gradreg_torch.penalty(lambda x: MODEL(x)[:, 0], X, None, HoffmanReg(1.0)))


def test_entropy_is_averaged_over_the_positions_that_count() -> None:
    f = MODEL(X).softmax(-1)
    negative_entropy = (f * f.log()).sum(-1)
    wanted = (WEIGHTS * negative_entropy).sum() / WEIGHTS.sum()
    same(gradreg_torch.penalty(MODEL, X, None, ConfidencePenalty(1.0), class_axis=-1, position_weight=WEIGHTS), wanted)


@pytest.mark.parametrize("method", ["jvp", "difference"])
def test_input_side_outputs_at_masked_positions_do_not_count(method: str) -> None:
    reg = SpectReg(1.0, side="input", method=method)
    counts = torch.tensor([[1.0, 1.0, 0.0]] * BATCH, dtype=torch.float64)
    masked = gradreg_torch.penalty(MODEL, X, None, reg, class_axis=-1, position_weight=counts)
    same(masked, gradreg_torch.penalty(lambda x: MODEL(x)[:, :2], X, None, reg, class_axis=-1))


def test_a_part_of_the_batch_is_unbiased() -> None:
    reg, options = FrobReg(1.0), {"class_axis": -1, "position_weight": WEIGHTS[:2]}
    x, y = X[:2], LABELS[:2].clamp(min=0)
    whole = gradreg_torch.penalty(MODEL, x, y, reg, **options).detach()  # type: ignore[arg-type]
    half = FrobReg(1.0, fraction=0.5)
    values = {
        round(gradreg_torch.penalty(MODEL, x, y, half, step=step, **options).item(), 12)  # type: ignore[arg-type]
        for step in range(16)
    }
    assert len(values) == 2
    assert sum(values) / 2 == pytest.approx(float(whole), rel=1e-10)  # the values are rounded to 12 digits


def test_where_no_position_counts_everything_is_zero() -> None:
    nothing = torch.zeros(BATCH, LENGTH, dtype=torch.float64)
    total, parts = gradreg_torch.loss(
        MODEL, X, LABELS.clamp(min=0), DataGrad(1.0) + FrobReg(1.0), class_axis=-1, position_weight=nothing
    )
    assert float(total.detach()) == float(parts.penalty[0].detach()) == 0.0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"position_weight": WEIGHTS[:, :2]},
            InputError,
            r"position_weight must have shape \(4, 3\) for outputs of shape",
        ),
        ({"position_weight": -WEIGHTS}, InputError, "position_weight must be finite and at least 0"),
        ({"position_weight": WEIGHTS / 0}, InputError, "position_weight must be finite"),
        ({"class_axis": None, "position_weight": WEIGHTS}, InputError, "position_weight needs to know which axis"),
        ({"ignore_index": 1.5}, InputTypeError, "ignore_index must be an integer, got 1.5"),
        ({"ignore_index": True}, InputTypeError, "ignore_index must be an integer"),
    ],
)
def test_weights_that_do_not_fit_are_refused(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        gradreg_torch.loss(MODEL, X, LABELS.clamp(min=0), FrobReg(1.0), **{"class_axis": -1, **options})


def test_ignored_labels_are_integers_of_each_position() -> None:
    for y in (None, MODEL(X).softmax(-1).detach(), LABELS[:, 0], {"y": LABELS}):
        with pytest.raises(
            InputError, match=r"ignore_index=-100 needs integer labels of shape \(4, 3\).*position_weight="
        ):
            gradreg_torch.penalty(MODEL, X, y, FrobReg(1.0), class_axis=-1, ignore_index=-100)
