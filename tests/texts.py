"""Sentences about six data sets, from scikit-learn's own descriptions of them, as numbered words; and tiny models."""

import re
from functools import cache
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor

LENGTH, LABELS, IGNORED = 10, 6, -100


@cache
def _numbered() -> tuple[Tensor, Tensor, int]:
    loaders = ("iris", "wine", "breast_cancer", "diabetes", "digits", "linnerud")
    sentences = [
        (words, label)
        for label, name in enumerate(loaders)
        for sentence in re.split(r"[.\n]{2,}|\. ", getattr(datasets, f"load_{name}")().DESCR.lower())
        if len(words := re.findall("[a-z]{2,}", sentence)[:LENGTH]) >= 4
    ]
    numbers = {
        word: 1 + number for number, word in enumerate(sorted({word for words, _ in sentences for word in words}))
    }
    rows = [[numbers[word] for word in words] + [0] * (LENGTH - len(words)) for words, _ in sentences]
    return torch.tensor(rows), torch.tensor([label for _, label in sentences]), len(numbers) + 1


def sentences(task: str, size: int = 24) -> list[dict[str, Any]]:
    """A data set for a task: "sequence", "token" (is the word a long one?) or "causal"; padding has the label -100."""
    rows, labels, _ = _numbered()
    chosen = torch.arange(size) * len(rows) // size
    examples = []
    for row, label in zip(rows[chosen], labels[chosen], strict=True):
        own = {"sequence": label, "token": row % 3, "causal": row}[task].clone()
        if task != "sequence":
            own[row == 0] = IGNORED
        examples.append({"input_ids": row, "attention_mask": (row > 0).long(), "labels": own})
    return examples


def model(task: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """BERT with a head, or Llama for causal language modelling; without dropout unless asked for."""
    import transformers

    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    common = {"vocab_size": _numbered()[2], "max_position_embeddings": 16, **sizes}
    torch.manual_seed(0)
    if task == "causal":
        config: Any = transformers.LlamaConfig(**common, pad_token_id=0, initializer_range=0.3, **options)
        return transformers.LlamaForCausalLM(config).to(dtype)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": LABELS}
    config = transformers.BertConfig(**common, **{**rates, "initializer_range": 0.3, **options})
    kind = {"sequence": "BertForSequenceClassification", "token": "BertForTokenClassification"}[task]
    return getattr(transformers, kind)(config).to(dtype)
