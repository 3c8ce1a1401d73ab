"""A Trainer of Hugging Face's transformers with a regularizer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Trainer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.results import term_names
from gradreg_core.selection import Selector
from gradreg_core.spec import Regularizer, Term
from gradreg_torch.penalised_pass import PenalisedPass, differentiates_twice, resolved
from gradreg_torch.supported_models import innermost, require_supported, uncompiled

__all__ = ["RegularizedTrainer", "RegularizedTrainerMixin"]

IGNORED = -100
"""The label of ignored positions, everywhere in transformers."""

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class _Share(NamedTuple):
    """The weights of one micro-batch's means in the sum over micro-batches and in the mean over processes."""

    loss: Any
    penalty: Any
    num_items: Any
    """The argument of compute_loss that makes its loss a mean over the micro-batch, if it has one."""


class RegularizedTrainerMixin(_Base):
    """Adds a regularizer to any Trainer: ``class MyTrainer(RegularizedTrainerMixin, TheirTrainer)``.

    ::

        trainer = RegularizedTrainer(model, args, train_dataset=data, reg=SpectReg(0.1, at="embeddings"))

    Outputs, loss and penalties come from one forward pass; a term with ``fraction < 1`` adds one over its part.
    The model is called with all its inputs, and its loss, label smoothing and `compute_loss_func` stay as they are. The
    total is the mean over all labelled positions of the accumulated batch and of all processes. This also holds for
    models that ignore ``num_items_in_batch`` (BERT's), whose losses the Trainer alone would sum.

    * `at=` names a module, or the only module whose name ends so: ``"embeddings"`` is ``"bert.embeddings"``, and finds
      it inside peft's models as well. A module takes precedence over a tap of the same name.
    * Positions with the label -100 are left out of every penalty. The labels of causal language models are shifted, as
      in their loss. A sample's weight is the number of its labelled positions.
    * The step is ``state.global_step``. Samples are numbered over micro-batches and processes as by
      :class:`gradreg_torch.Criterion` with ``sample_ids="rank"``.
    * Evaluation and prediction use the loss alone.
    * In steps with a penalty, attention uses PyTorch's math kernel, which has a second derivative, and a model that
      ``torch_compile=True`` compiles runs uncompiled.
    * The logs have ``"penalty"`` and, per term, ``"penalty/SpectReg"``: means per step, as for ``"loss"``, the total.

    Args:
        *args: arguments of the Trainer.
        reg: a regularizer, or None.
        loss_fn: ``loss_fn(outputs, labels)`` -> one loss per sample or position, for terms on the loss such as
            DataGrad. Default: cross-entropy, with the Trainer's label smoothing; the first step compares it with the
            training loss.
        seed: the seed of the draws, in place of the terms' own seeds.
        outputs: selects the outputs to penalise from what the model returns; default ``"logits"``.
        wrt: the names of the inputs that terms without `at=` differentiate with respect to. Default: the model's main
            input and ``"inputs_embeds"``, whichever is floating-point.
        batch_norm: "error", "warn" or "allow".
        **kwargs: keyword arguments of the Trainer.

    Raises:
        InputTypeError: `reg` is not a regularizer; in training, a term without `at=` meets tokens.
        InputError: in training, `at=` fits several modules, or the loss of DataGrad is not the training loss.
        UnsupportedError: in the first step with a penalty: DataParallel, DeepSpeed, tensor, context or sequence
            parallelism, attention without second derivative, checkpointing with ``use_reentrant=True``, Liger kernels,
            compiled submodules; or a `compute_loss` that calls the model twice or not at all.
    """

    def __init__(
        self,
        *args: Any,
        reg: Regularizer | None,
        loss_fn: Callable[[Tensor, Any], Tensor] | None = None,
        seed: int | None = None,
        outputs: Selector = None,
        wrt: str | Sequence[str] | None = None,
        batch_norm: str = "warn",
        **kwargs: Any,
    ) -> None:
        if not (reg is None or isinstance(reg, Regularizer)):
            raise InputTypeError(
                f"{type(self).__name__}: reg must be a regularizer such as SpectReg(0.1, at='embeddings'), or None, "
                f"got {type(reg).__name__}."
            )
        self.reg = reg
        self._loss_fn, self._wrt = loss_fn, (wrt,) if isinstance(wrt, str) else wrt
        self._options = {"seed": seed, "outputs": outputs, "batch_norm": batch_norm, "class_axis": -1}
        self._supported: nn.Module | None = None
        """The model that passed the checks of the first step."""
        self._same_loss = False
        """Whether the loss of the terms on it was compared with the training loss."""
        self._terms: tuple[Term, ...] = () if reg is None else reg.terms
        self._step_of_samples, self._samples = -1, 0
        self._charged: Tensor | None = None
        """The sum of each term's penalties since the step `_charged_from`."""
        self._charged_from = 0
        super().__init__(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Start the batch of a step; see the Trainer."""
        self._step_of_samples = -1
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """See the Trainer. In the backward pass, recomputed layers use the kernels of the forward pass."""
        with self._attention():
            return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss plus the penalties in training, the loss alone elsewhere; see the Trainer."""
        if not (model.training and torch.is_grad_enabled()):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items_in_batch)
        labels = self._labels(inputs)
        share = self._share(labels, num_items_in_batch)
        penalised = self._penalised(model, inputs, labels)
        with self._attention():
            stand_in: Any = penalised
            loss, outputs = super().compute_loss(stand_in, inputs, True, num_items_in_batch=share.num_items)
        penalised.require_called(type(self).__name__)
        loss = loss * share.loss
        if penalised.on_loss and self._loss_fn is None and not self._same_loss:
            self._require_same_loss(loss, penalised.data_loss() * share.penalty)
        penalties = [penalty * share.penalty for penalty in penalised.penalties]
        self._record(penalties, share)
        total = sum(penalties, loss)
        return (total, outputs) if return_outputs else total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; a training loss comes with the mean penalties since the last log; see the Trainer."""
        if "loss" in logs and self._charged is not None:
            steps = max(self.state.global_step - self._charged_from, 1)
            means = self.accelerator.gather(self._charged[None]).mean(0) / steps
            names = [f"penalty/{name}" for name in term_names(self._terms)]
            logs.update({"penalty": means.sum().item(), **dict(zip(names, means.tolist(), strict=True))})
            self._charged = None
        super().log(logs, *args, **kwargs)

    def _own_model(self) -> nn.Module:
        model = self.model
        assert model is not None
        return model

    def _due(self) -> list[Term]:
        """The terms that are due at this step."""
        return [term for term in self._terms if term.is_due(self.state.global_step)]

    def _attention(self) -> AbstractContextManager[None]:
        """The attention kernels of a step."""
        return sdpa_kernel(SDPBackend.MATH) if any(map(differentiates_twice, self._due())) else nullcontext()

    def _labels(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """The labels, each at the position of its outputs."""
        labels = inputs.get("shift_labels", inputs.get("labels"))
        if not isinstance(labels, Tensor) or "shift_labels" in inputs:
            return labels if isinstance(labels, Tensor) else None
        shifts: bool | None = getattr(self, "_loss_shifts_labels", None)
        if shifts is None:  # versions before transformers counted these positions
            shifts = innermost(self._own_model())._get_name() in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        return nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:] if shifts else labels

    def _share(self, labels: Tensor | None, num_items: Any) -> _Share:
        """The share of this micro-batch.

        Raises:
            UnsupportedError: a `compute_loss` of another class does not say how it averages over processes.
        """
        explicit: bool | None = getattr(self, "loss_is_scaled_for_ga", None)
        of_func = self.compute_loss_func is not None
        if explicit is False or not (explicit or of_func or (self.model_accepts_loss_kwargs and num_items is not None)):
            return _Share(1.0, 1.0, num_items)  # a mean, which the Trainer divides
        if num_items is None or labels is None:
            return _Share(1.0, 1.0 / self.current_gradient_accumulation_steps, num_items)
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        count = labels.ne(IGNORED).sum()
        is_double = next(self._own_model().parameters()).dtype == torch.float64
        part = (count.double() if is_double else count) / num_items
        if super().compute_loss.__func__ is not Trainer.compute_loss:  # type: ignore[attr-defined]
            if explicit is True:
                return _Share(1.0, part * ranks, num_items)
            if ranks > 1:
                raise UnsupportedError(
                    f"{type(self).__name__}: a compute_loss that is not the Trainer's must say how it averages over "
                    f"{ranks} processes. Set loss_is_scaled_for_ga in your class: True if it divides by "
                    f"num_items_in_batch and multiplies by the processes, False if it is a mean over its own batch."
                )
        return _Share(part, part * ranks, count.clamp(min=1))

    def _penalised(self, model: nn.Module, inputs: Mapping[str, Any], labels: Tensor | None) -> PenalisedPass:
        """The model for one pass."""
        inner = innermost(model)
        name, due = inner._get_name(), self._due()
        if due:
            model = uncompiled(model)
            if self._supported is not model and self.reg is not None:
                require_supported(self, model, any(map(differentiates_twice, due)))
                self._terms = resolved(self.reg, model, name)
                self._supported = model
        main_name = getattr(inner, "main_input_name", None)
        main = inputs.get(str(main_name), inputs.get("inputs_embeds"))
        if not isinstance(main, Tensor):
            main = next(value for value in inputs.values() if isinstance(value, Tensor) and value.dim())
        floating = tuple(name for name in inputs if name not in self.label_names) if main_name is None else None
        classes = labels is not None and not labels.is_floating_point()
        options = {
            **self._options,
            "sample_ids": self._numbers(len(main)),
            "ignore_index": IGNORED if classes and labels is not None and labels.dim() <= 2 else None,
            "params": [parameter for parameter in model.parameters() if parameter.requires_grad],
        }
        return PenalisedPass(
            model,
            name,
            self._terms,
            self.state.global_step,
            len(main),
            labels if not classes or options["ignore_index"] else None,
            tuple(self._wrt) if self._wrt is not None else floating or (str(main_name), "inputs_embeds"),
            self._loss_fn or (self._smoothed if self.label_smoother is not None else None),
            options,
        )

    def _numbers(self, size: int) -> Tensor:
        """The samples' numbers in the batch of this step, on all processes."""
        step = self.state.global_step
        if self._step_of_samples != step:
            self._step_of_samples, self._samples = step, 0
        first = self._samples * self.accelerator.num_processes + self.accelerator.process_index * size
        self._samples += size
        return torch.arange(first, first + size)

    def _smoothed(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The Trainer's smoothed cross-entropy, per position."""
        classes = outputs.movedim(-1, 1).float() if outputs.dtype.itemsize < 4 else outputs.movedim(-1, 1)
        assert self.label_smoother is not None
        epsilon = self.label_smoother.epsilon
        return nn.functional.cross_entropy(classes, labels.clamp(min=0), reduction="none", label_smoothing=epsilon)

    def _require_same_loss(self, trained: Tensor, ours: Tensor) -> None:
        """In the first step, refuse to penalise the gradient of a loss that differs from the training loss.

        Raises:
            InputError: the two losses differ.
        """
        close = 1e-6 if trained.dtype == torch.float64 else 1e-3 if not self.args.bf16 and not self.args.fp16 else 3e-2
        if not torch.isclose(trained.detach().double(), ours.detach().double(), rtol=close, atol=1e-6):
            raise InputError(
                f"{type(self).__name__}: the training loss is {trained.item():.6g}, and the cross-entropy of "
                f"the logits, which a term on the loss such as DataGrad differentiates, is {ours.item():.6g}. Pass the "
                f"loss per sample: loss_fn=lambda outputs, labels: ..."
            )
        self._same_loss = True

    def _record(self, penalties: Sequence[Tensor], share: _Share) -> None:
        """Keep the penalties for the next log, without reading them."""
        if not penalties:
            return
        values = torch.stack([penalty.detach().float() for penalty in penalties])
        if isinstance(share.penalty, float) and share.penalty == 1.0:  # which the Trainer divides
            values = values / self.current_gradient_accumulation_steps
        if self._charged is None:
            self._charged, self._charged_from = torch.zeros_like(values), self.state.global_step
        self._charged = self._charged + values


class RegularizedTrainer(RegularizedTrainerMixin, Trainer):
    """The Trainer with a regularizer: ``RegularizedTrainer(model, args, train_dataset=data, reg=reg)``.

    Arguments and behaviour: see :class:`RegularizedTrainerMixin`.
    """
