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
        self.gradients = [None if weight.grad is None else weight.grad.clone() for weight in parameters]
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


@pytest.mark.slow
@pytest.mark.sample(4)
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


def parameters(trainer: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


REG = gradreg.SpectReg(0.2, at="embeddings", seed=3) + gradreg.WeightDecay(0.05)


@pytest.mark.slow
def test_draws_depend_on_the_step_and_the_place_in_the_whole_batch(tmp_path: Path) -> None:
    whole = trained("token", tmp_path, REG, max_steps=2)
    parts = trained("token", tmp_path, REG, max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=3)
    # transformers computes the loss in float32, in sums of other lengths.
    torch.testing.assert_close(parameters(parts), parameters(whole), rtol=1e-5, atol=1e-7)
    model, batch = texts.model("token"), whole.batches[0]
    x = gradreg.Inputs(batch["input_ids"], attention_mask=batch["attention_mask"])
    term = gradreg.SpectReg(0.2, at="bert.embeddings", seed=3)
    options: dict[str, Any] = {"ignore_index": texts.IGNORED, "class_axis": -1, "outputs": "logits", "step": 0}
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        wanted = gradreg.penalty(model, x, batch["labels"], term, **options).item()
        squares = sum(weight.square().sum().item() for weight in model.parameters() if weight.dim() > 1)
    first = whole.state.log_history[0]
    assert first["penalty/SpectReg"] == pytest.approx(wanted, rel=1e-6)
    assert first["penalty/WeightDecay"] == pytest.approx(0.05 / 2 * squares, rel=1e-6)
    assert first["penalty"] == pytest.approx(first["penalty/SpectReg"] + first["penalty/WeightDecay"], rel=1e-6)


@pytest.mark.slow
def test_a_part_of_the_batch_is_penalised_now_and_then(tmp_path: Path) -> None:
    reg = gradreg.SpectReg(0.2, at="embeddings", fraction=0.5, every=2) + gradreg.SpectReg(0.1, at="pooler", every=3)
    trainer = trained("sequence", tmp_path, reg, max_steps=4)
    logs = trainer.state.log_history
    charged = [(log["penalty/SpectReg 1"] > 0, log["penalty/SpectReg 2"] > 0) for log in logs[:4]]
    assert charged == [(True, True), (False, False), (True, False), (False, True)]
    plain = trained("sequence", tmp_path, None, max_steps=1)
    assert logs[0]["loss"] - logs[0]["penalty"] == pytest.approx(plain.state.log_history[0]["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    reg = gradreg.SpectReg(lambda step: 0.1 * (1 + step), at="embeddings")
    chosen = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 4, "save_steps": 2}
    common = {**chosen, "save_strategy": "steps", "optim": "adamw_torch"}
    model = lambda: texts.model("sequence", hidden_dropout_prob=0.2)  # noqa: E731
    whole = trained("sequence", tmp_path, reg, model(), **common)
    options = {"train_dataset": texts.sentences("sequence"), "reg": reg}
    resumed = RegularizedTrainer(model(), settings(tmp_path / "second", **common), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(parameters(resumed), parameters(whole))
    for log, wanted in zip(resumed.state.log_history[:4], whole.state.log_history[:4], strict=True):
        assert (log["loss"], log["penalty"]) == (wanted["loss"], wanted["penalty"])


@pytest.mark.slow
def test_evaluation_and_prediction_have_no_penalty(tmp_path: Path) -> None:
    trainer = trained("sequence", tmp_path, REG)
    plain = Trainer(trainer.model, settings(tmp_path))
    data = texts.sentences("sequence")
    assert trainer.evaluate(data)["eval_loss"] == plain.evaluate(data)["eval_loss"]
    assert "penalty" not in trainer.state.log_history[-1]
    assert (trainer.predict(data).predictions == plain.predict(data).predictions).all()


@pytest.mark.slow
def test_losses_that_are_means_count_once_whatever_is_accumulated(tmp_path: Path) -> None:
    examples = [{**example, "labels": example["labels"].double()} for example in texts.sentences("sequence")]
    results = []
    for size in (12, 4):
        accumulated = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 12 // size}
        model = texts.model("sequence", num_labels=1)
        trainer = Recorded(model, settings(tmp_path, **accumulated), train_dataset=examples, reg=REG)
        trainer.train()
        results.append((trainer.state.log_history[0]["loss"], parameters(trainer)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


def test_images_are_the_input_that_counts(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits
    from transformers import ViTConfig, ViTForImageClassification

    digits = load_digits()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, hidden_dropout_prob=0.0, **sizes)
    model = ViTForImageClassification(config).double()
    images = torch.tensor(digits.images[:8, None] / 16)
    labels = torch.tensor(digits.target[:8])
    images.requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        losses = F.cross_entropy(model(images).logits, labels, reduction="none")
        (slope,) = torch.autograd.grad(losses.sum(), images, create_graph=True)
        total = losses.mean() + 0.5 * slope.square().flatten(1).sum(1).mean()
        wanted = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    data = [{"pixel_values": x.detach(), "labels": y} for x, y in zip(images, labels, strict=True)]
    chosen = settings(tmp_path, per_device_train_batch_size=8)
    trainer = Recorded(model, chosen, train_dataset=data, reg=gradreg.DataGrad(0.5))
    trainer.train()
    for came, gradient in zip(trainer.gradients, wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(came, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_half_precision_and_compilation(tmp_path: Path) -> None:
    reg = gradreg.SpectReg(0.2, at="embeddings", every=2)
    exact = trained("sequence", tmp_path, reg, max_steps=2)
    backend = {"torch_compile": True, "torch_compile_backend": "eager"}
    compiled = trained("sequence", tmp_path, reg, max_steps=2, **backend)
    torch.testing.assert_close(parameters(compiled), parameters(exact), rtol=1e-9, atol=1e-12)
    half = trained("sequence", tmp_path, reg, texts.model("sequence", torch.float32), max_steps=1, bf16=True)
    # bfloat16 has 8 bits; the squared gradient passes through some ten operations.
    wanted = exact.state.log_history[0]["penalty"]
    assert half.state.log_history[0]["penalty"] == pytest.approx(wanted, rel=0.05)


class CallsTwice(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        loss = outputs.loss + model(**inputs).loss
        return (loss, outputs) if return_outputs else loss


class CallsAround(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model.bert(inputs["input_ids"])
        loss = outputs.last_hidden_state.mean()
        return (loss, outputs) if return_outputs else loss


def compiled_inside() -> Any:
    model = texts.model("sequence")
    model.bert.encoder.layer[0] = torch.compile(model.bert.encoder.layer[0], backend="eager")
    return model


def flex() -> Any:
    model = texts.model("sequence")
    model.config._attn_implementation = "flex_attention"
    return model


KWARGS = f"{next(iter(RECOMPUTED))}_kwargs"
AT = gradreg.DataGrad(0.1, at="embeddings")
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tokens": ({"reg": gradreg.SpectReg(0.1)}, InputTypeError, r"input_ids.*SpectReg\(0.1, at='embeddings'\)"),
    "several": ({"reg": gradreg.SpectReg(0.1, at="dense")}, InputError, r"at='dense' fits \d+ modules of BertFor"),
    "nowhere": ({"reg": gradreg.SpectReg(0.1, at="nowhere")}, InputError, "nowhere"),
    "another loss": (
        {"compute_loss_func": lambda outputs, labels, num_items_in_batch: 2 * F.cross_entropy(outputs.logits, labels)},
        InputError,
        "Pass the loss per sample: loss_fn=",
    ),
    "reentrant": (
        {**RECOMPUTED, KWARGS: {"use_reentrant": True}},
        UnsupportedError,
        r"use_reentrant=True .*checkpointing_kwargs=\{'use_reentrant': False\}",
    ),
    "attention": ({"model": flex}, UnsupportedError, "flex_attention.*attn_implementation='sdpa'"),
    "compiled": ({"model": compiled_inside}, UnsupportedError, r"bert.encoder.layer.0 is compiled.*torch_compile=True"),
    "twice": ({"kind": type("T", (RegularizedTrainerMixin, CallsTwice), {})}, UnsupportedError, "calls BertFor.*twice"),
    "around": ({"kind": type("T", (RegularizedTrainerMixin, CallsAround), {})}, UnsupportedError, "no penalty"),
}


@pytest.mark.slow
@pytest.mark.sample(5)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_right_is_refused(name: str, tmp_path: Path) -> None:
    given, error, message = REFUSED[name]
    chosen = {"reg": AT, "kind": RegularizedTrainer, **given}
    chosen["model"] = chosen.get("model", lambda: texts.model("sequence"))()
    with pytest.raises(error, match=message):
        trained("sequence", tmp_path, **chosen)


def test_parallelism_inside_of_a_sample_is_refused(tmp_path: Path) -> None:
    from gradreg_torch.supported_models import require_supported

    model = texts.model("sequence")
    chosen = {"n_gpu": 2, "use_liger_kernel": True}
    trainer = SimpleNamespace(args=SimpleNamespace(**chosen), is_deepspeed_enabled=True, get_tp_size=lambda: 2)
    with pytest.raises(UnsupportedError) as caught:
        require_supported(trainer, model, exact=True)
    for obstacle in ("DataParallel over 2", "DeepSpeed", "'tp': 2", "Set use_liger_kernel=False"):
        assert obstacle in str(caught.value)
    with pytest.raises(InputTypeError, match="reg must be a regularizer such as"):
        RegularizedTrainer(model, settings(tmp_path), reg=0.1)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_loss_of_another_trainer_is_penalised_with_its_own_loss_function(tmp_path: Path) -> None:
    class Doubled(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            outputs = model(**inputs)
            loss = 2 * F.cross_entropy(outputs.logits, inputs["labels"])
            return (loss, outputs) if return_outputs else loss

    class Mine(RegularizedTrainerMixin, Doubled):
        pass

    def doubled(outputs: Tensor, labels: Tensor) -> Tensor:
        return 2 * F.cross_entropy(outputs, labels, reduction="none")

    accumulated = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    mine = trained("sequence", tmp_path, AT, kind=Mine, loss_fn=doubled, **accumulated)
    single = trained("sequence", tmp_path, AT)
    logs, wanted = mine.state.log_history[0], single.state.log_history[0]
    assert logs["penalty"] == pytest.approx(4 * wanted["penalty"], rel=1e-6)
    assert logs["loss"] == pytest.approx(2 * wanted["loss"] + 2 * wanted["penalty"], rel=1e-6)
