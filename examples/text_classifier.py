"""A small BERT predicts from a sentence of scikit-learn's documentation which module it is about.

Few sentences are labelled, and the model has seen no text before: the regularizer keeps the outputs from moving
much with the embeddings of the words.

Run: python examples/text_classifier.py
"""

import argparse
import importlib
import inspect
import re
import tempfile
from collections import Counter

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainingArguments

import gradreg_torch as gradreg
from gradreg_torch.transformers import RegularizedTrainer

MODULES, WORDS, LENGTH = ("linear_model", "cluster", "ensemble", "neighbors", "decomposition"), 1000, 16
Examples = list[dict[str, torch.Tensor]]


def sentences() -> list[tuple[list[str], int]]:
    """The distinct sentences of the public classes and functions of each module, as words, with the module's number."""
    kept: dict[tuple[str, ...], int] = {}
    for label, name in enumerate(MODULES):
        module = importlib.import_module(f"sklearn.{name}")
        for text in [inspect.getdoc(getattr(module, public)) or "" for public in module.__all__]:
            for sentence in re.split(r"\.\s|\n\n", text.partition("Examples\n---")[0].lower()):
                words = tuple(re.findall("[a-z]{2,}", sentence)[:LENGTH])
                if len(words) >= 6:
                    kept.setdefault(words, label)
    return [(list(words), label) for words, label in kept.items()]


def data(labelled: int, seed: int) -> tuple[Examples, Examples]:
    """Sentences to train on and 1,000 others, padded, with masks."""
    chosen = sentences()
    frequent = Counter(word for words, _ in chosen for word in words).most_common(WORDS - 2)
    numbers = {word: 2 + number for number, (word, _) in enumerate(frequent)}
    examples = []
    for words, label in chosen:
        row = torch.tensor([numbers.get(word, 1) for word in words] + [0] * (LENGTH - len(words)))
        examples.append({"input_ids": row, "attention_mask": (row > 0).long(), "labels": torch.tensor(label)})
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[i] for i in order[:labelled]], [examples[i] for i in order[labelled : labelled + 1000]]


def train(reg: gradreg.Regularizer | None, steps: int, labelled: int, seed: int) -> tuple[float, float]:
    """(accuracy on other sentences in percent, mean norm of the Jacobian at the embeddings)."""
    known, others = data(labelled, seed)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=WORDS, num_labels=len(MODULES), **sizes))
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=5e-3,
            seed=seed,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = RegularizedTrainer(model, settings, train_dataset=known, reg=reg)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    batch = {name: torch.stack([example[name] for example in others]) for name in others[0]}
    labels = batch.pop("labels")
    model.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        accuracy = (model(**batch).logits.argmax(-1) == labels).float().mean().item()
        square = gradreg.penalty(
            model, gradreg.Inputs(**batch), None, gradreg.FrobReg(1.0, at="bert.embeddings", squared=False)
        )
    return 100 * accuracy, square.item()


def main(steps: int, seeds: int, labelled: int, weight: float) -> dict[str, tuple[float, float]]:
    """The means over the seeds of accuracy and norm, per method."""
    outcome = {}
    for name, reg in {"plain": None, "SpectReg": gradreg.SpectReg(weight, at="embeddings")}.items():
        runs = torch.tensor([train(reg, steps, labelled, seed) for seed in range(seeds)])
        accuracy, norm = runs.mean(0).tolist()
        outcome[name] = (accuracy, norm)
        print(f"{name:10} accuracy {accuracy:5.1f} %   norm of the Jacobian at the embeddings {norm:6.2f}")
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--labelled", type=int, default=500)
    parser.add_argument("--weight", type=float, default=0.3)
    main(**vars(parser.parse_args()))
