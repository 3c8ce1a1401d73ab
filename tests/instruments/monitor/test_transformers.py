"""The callback of Hugging Face's Trainer."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gradreg_core import Inputs, SpectReg
from gradreg_monitor import CsvWriter, Monitor

transformers = pytest.importorskip("transformers")
from gradreg_monitor.transformers import MonitorCallback  # noqa: E402

IDS = torch.randint(3, 20, (8, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[:, 4:] = 0
LABELS = torch.arange(8) % 2


def trained(folder: Path, *callbacks: object) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=2,
        attn_implementation="eager",
    )
    model = transformers.BertForSequenceClassification(config)
    data = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(IDS, MASK, LABELS, strict=True)
    ]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=4,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=list(callbacks))
    with torch.no_grad():
        start = model.eval()(input_ids=IDS, attention_mask=MASK, labels=LABELS).loss
    model.train()
    trainer.train()
    return model, start.item()


@pytest.mark.slow
def test_a_training_is_watched_and_goes_as_without(tmp_path: Path) -> None:
    place = "bert.embeddings"
    monitor = Monitor(
        Inputs(input_ids=IDS, attention_mask=MASK),
        LABELS,
        SpectReg(0.1, at=place),
        at=place,
        outputs="logits",
        writers=[CsvWriter(tmp_path / "watch.csv")],
    )
    watched, loss = trained(tmp_path, MonitorCallback(monitor))
    alone, _ = trained(tmp_path)
    for (name, value), other in zip(watched.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert [record["step"] for record in monitor.records] == [0, 1, 2]
    assert monitor.records[0]["loss"] == pytest.approx(loss, rel=1e-6)
    assert monitor.records[0]["jacobian/spectral"] > 0
    assert monitor.records[0]["gradient/share"] > 0
    assert (tmp_path / "watch.csv").read_text().count("\n") == 4
