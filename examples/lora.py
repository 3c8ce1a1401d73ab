"""A small Llama, trained on scikit-learn's documentation and adapted to NumPy's by LoRA, on few sentences.

DataGrad at the embeddings keeps the loss of a sentence from moving much with the embeddings of its words, which are
frozen. The adapted model is tested on sentences that it has not seen.

Run: python examples/lora.py
"""

import argparse
import importlib
import inspect
import re
import tempfile
from collections import Counter
from typing import Any

import numpy
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainingArguments

import gradreg_torch as gradreg
from gradreg_torch.transformers import RegularizedTrainer

MODULES, WORDS, LENGTH = ("linear_model", "cluster", "ensemble", "neighbors", "decomposition", "metrics"), 500, 16
Examples = list[dict[str, torch.Tensor]]


def sentences(module: Any, names: list[str]) -> list[tuple[str, ...]]:
    """The distinct sentences about the public names of a module, as words."""
    kept: dict[tuple[str, ...], None] = {}
    for text in [inspect.getdoc(getattr(module, name)) or "" for name in names]:
        for sentence in re.split(r"\.\s|\n\n", text.partition("Examples\n---")[0].lower()):
            if len(words := tuple(re.findall("[a-z]{2,}", sentence)[:LENGTH])) >= 6:
                kept[words] = None
    return list(kept)


def data() -> tuple[Examples, Examples]:
    """Sentences about scikit-learn and about NumPy, padded; the label of padding is -100."""
    modules = [importlib.import_module(f"sklearn.{name}") for name in MODULES]
    known = [words for module in modules for words in sentences(module, module.__all__)]
    new = sentences(numpy, [name for name in sorted(numpy.__all__) if callable(getattr(numpy, name))])
    frequent = Counter(word for words in known for word in words).most_common(WORDS - 2)
    numbers = {word: 2 + number for number, (word, _) in enumerate(frequent)}

    def example(words: tuple[str, ...]) -> dict[str, torch.Tensor]:
        row = torch.tensor([numbers.get(word, 1) for word in words] + [0] * (LENGTH - len(words)))
        labels = torch.where(row > 1, row, -100)
        return {"input_ids": row, "attention_mask": (row > 0).long(), "labels": labels}

    return [example(words) for words in known], [example(words) for words in new]


def fit(model: Any, examples: Examples, reg: gradreg.Regularizer | None, steps: int, rate: float, seed: int) -> None:
    """Train `model` in place."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=rate,
            seed=seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = RegularizedTrainer(model, settings, train_dataset=examples, reg=reg)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def evaluate(model: Any, examples: Examples) -> tuple[float, float]:
    """(mean loss per word, mean norm of the gradient of a sentence's loss at the embeddings)."""
    batch = {name: torch.stack([example[name] for example in examples]) for name in examples[0]}
    labels = torch.nn.functional.pad(batch.pop("labels")[:, 1:], (0, 1), value=-100)
    term = gradreg.DataGrad(1.0, at="base_model.model.model.embed_tokens", squared=False)
    model.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        _, parts = gradreg.loss(model, gradreg.Inputs(**batch), labels, term, class_axis=-1, ignore_index=-100)
    return parts.loss.item(), parts.penalty[0].item()


def main(pretraining: int, steps: int, labelled: int, weight: float, seed: int) -> dict[str, tuple[float, float]]:
    """(loss, norm) per method on 500 new sentences."""
    known, new = data()
    order = numpy.random.default_rng(seed).permutation(len(new))
    few, others = [new[i] for i in order[:labelled]], [new[i] for i in order[labelled : labelled + 500]]
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, pad_token_id=0, **sizes))
    fit(base, known, None, pretraining, 5e-3, seed)
    state, outcome = {name: value.clone() for name, value in base.state_dict().items()}, {}
    for name, reg in {"plain": None, "DataGrad": gradreg.DataGrad(weight, at="embed_tokens")}.items():
        fresh = LlamaForCausalLM(base.config)
        fresh.load_state_dict(state)
        torch.manual_seed(seed)
        config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM")
        model = get_peft_model(fresh, config)
        fit(model, few, reg, steps, 1e-2, seed)
        outcome[name] = evaluate(model, others)
        print(f"{name:10} loss per word {outcome[name][0]:5.3f}   norm of its gradient {outcome[name][1]:6.3f}")
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretraining", type=int, default=60)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--labelled", type=int, default=64)
    parser.add_argument("--weight", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
