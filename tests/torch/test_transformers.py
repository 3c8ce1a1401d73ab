"""Trainers of transformers with a regularizer, on sentences, beside double backward written by hand."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import gradreg_torch as gradreg
import texts
from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_torch.transformers import RegularizedTrainer, RegularizedTrainerMixin

RECOMPUTED = {
    "activation_checkpointing"
    if hasattr(TrainingArguments, "activation_checkpointing")
    else "gradient_checkpointing": True
}
OF_PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PLACE = {"sequence": "embeddings", "token": "embeddings", "causal": "embed_tokens"}
NOT_TOO_LARGE = {"sequence": 1.0, "token": 1.0, "causal": 1e-3}
"""Llama normalises its tiny embeddings, so that they move the outputs much."""


def settings(folder: Path, **chosen: Any) -> TrainingArguments:
    common = {"max_steps": 1, "logging_steps": 1, "report_to": [], "use_cpu": True, "save_strategy": "no"}
    of_optimizer = {"max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    sizes = {"per_device_train_batch_size": 12}
    return TrainingArguments(str(folder), disable_tqdm=True, **{**common, **of_optimizer, **sizes, **chosen})


class Recording:
    """Keeps the batches and the gradients of the first step."""

    batches: list[dict[str, Tensor]]
    gradients: list[Tensor | None]

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        self.batches = [*getattr(self, "batches", []), dict(inputs)]
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        parameters = model.parameters()
        self.gradients = [None if each.grad is None else each.grad.clone() for each in parameters]
        return loss


class Recorded(Recording, RegularizedTrainer):
    pass


def trained(task: str, folder: Path, reg: Any, model: Any = None, kind: Any = Recorded, **chosen: Any) -> Any:
    options = {name: chosen.pop(name) for name in ("loss_fn", "compute_loss_func", "outputs", "wrt") if name in chosen}
    model = texts.model(task) if model is None else model
    trainer = kind(model, settings(folder, **chosen), train_dataset=texts.sentences(task), reg=reg, **options)
    trainer.train()
    return trainer


def by_hand(task: str, model: Any, batch: dict[str, Tensor], weights: tuple[float, float], smoothing: float) -> Tensor:
    """Cross-entropy, DataGrad and R1 of the sum of the outputs at the embeddings, by torch.autograd.grad."""
    getattr(model, "get_base_model", lambda: model)().set_attn_implementation("eager")  # kernels of its own
    place: list[Tensor] = []
    (module,) = [part for name, part in model.named_modules() if name.endswith(f".{PLACE[task]}")]

    def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
        place.append(output if output.requires_grad else output.detach().requires_grad_())
        return place[0]

    hook = module.register_forward_hook(keep)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    hook.remove()
    labels = batch["labels"]
    if task == "causal":
        logits, labels = logits[:, :-1], labels[:, 1:]
    counted = (labels != texts.IGNORED).to(logits)
    losses = F.cross_entropy(
        logits.movedim(-1, 1), labels, reduction="none", label_smoothing=smoothing, ignore_index=texts.IGNORED
    )
    per_sample = losses.reshape(len(logits), -1).sum(1) / counted.reshape(len(logits), -1).sum(1)
    outputs = (logits * counted[..., None]).sum()
    of_loss, of_outputs = (
        torch.autograd.grad(value, place[0], create_graph=True)[0].square().flatten(1).sum(1)
        for value in (per_sample.sum(), outputs)
    )
    share = counted.reshape(len(logits), -1).sum(1) / counted.sum()
    return losses.sum() / counted.sum() + (share * (weights[0] * of_loss + 0.5 * weights[1] * of_outputs)).sum()


def adapted(dora: bool) -> Any:
    """Llama whose attention has adapters that are not zero."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], use_dora=dora, task_type="CAUSAL_LM")
    model = get_peft_model(texts.model("causal"), config).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def in_float64(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
    """A loss function for the Trainer, without the rounding to float32 of transformers' own."""
    loss = F.cross_entropy(outputs.logits.movedim(-1, 1), labels, reduction="sum")
    return loss / num_items_in_batch


EXACT, SINGLE = 1e-11, 1e-5
"""Relative to the largest: float64, and the float32 in which transformers normalises in Llama, and computes losses."""
SMOOTHED = {"label_smoothing_factor": 0.1}
CASES: dict[str, tuple[str, Callable[[], Any], dict[str, Any], float]] = {
    "sequence": ("sequence", lambda: texts.model("sequence"), {}, EXACT),
    "sequence, smoothed": ("sequence", lambda: texts.model("sequence", attn_implementation="eager"), SMOOTHED, SINGLE),
    "token": ("token", lambda: texts.model("token"), {"compute_loss_func": in_float64, **RECOMPUTED}, EXACT),
    "token, smoothed": ("token", lambda: texts.model("token"), SMOOTHED, SINGLE),
    "causal": ("causal", lambda: texts.model("causal"), {}, SINGLE),
    "causal, smoothed, recomputed": ("causal", lambda: texts.model("causal"), {**SMOOTHED, **RECOMPUTED}, SINGLE),
    "LoRA": ("causal", lambda: adapted(dora=False), {}, SINGLE),
    "DoRA, recomputed": ("causal", lambda: adapted(dora=True), RECOMPUTED, SINGLE),
}


@OF_PEFT
@pytest.mark.parametrize("name", CASES)
def test_the_first_gradient_is_that_of_a_loop_by_hand(name: str, tmp_path: Path) -> None:
    task, make, chosen, tolerance = CASES[name]
    weights = (0.7 * NOT_TOO_LARGE[task], 0.3 * NOT_TOO_LARGE[task])
    place = PLACE[task]
    reg = gradreg.DataGrad(weights[0], at=place) + gradreg.R1(weights[1], at=place, projection=gradreg.ones())
    accumulated = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    trainer = trained(task, tmp_path, reg, make(), **chosen, **accumulated)
    whole = {key: torch.cat([batch[key] for batch in trainer.batches]) for key in trainer.batches[0]}
    model = make()
    total = by_hand(task, model, whole, weights, chosen.get("label_smoothing_factor", 0.0))
    wanted = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])
    came = [gradient for gradient in trainer.gradients if gradient is not None]
    largest = max(gradient.abs().max().item() for gradient in wanted)
    assert largest > 0.01
    torch.testing.assert_close(came, list(wanted), rtol=tolerance, atol=tolerance * largest)
    # The Trainer sums the losses that it logs in float32.
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total.item(), rel=1e-6)
