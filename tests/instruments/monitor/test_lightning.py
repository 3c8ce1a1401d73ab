"""The callback of Lightning, and its fit for the search."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradreg_core
import gradreg_torch as gradreg
from gradreg_core import SpectReg
from gradreg_core.errors import InputError
from gradreg_monitor import CsvWriter, Monitor

lightning = pytest.importorskip("lightning.pytorch")
from gradreg_monitor.lightning import MonitorCallback, lightning_fit  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    # Lightning looks at trees with a class that PyTorch deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
]
X, Y = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 2
LOADER = DataLoader(TensorDataset(X, Y), batch_size=4)


class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, reg: Any = None) -> None:
        super().__init__()
        self.reg = reg
        self.net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        x, y = batch
        total, _ = gradreg.loss(self, x, y, self.reg, step=self.global_step, batch_norm="allow")
        return total

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def make_trainer(*callbacks: Any, **options: Any) -> Any:
    return lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=options.pop("logger", False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def trained(*callbacks: Any, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = Classifier(SpectReg(0.1))
    make_trainer(*callbacks, **options).fit(module, LOADER, LOADER)
    return module.state_dict()


def test_a_training_is_watched_and_goes_as_without(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    writer, logger = CsvWriter(tmp_path / "watch.csv"), CSVLogger(tmp_path)
    monitor = Monitor(X, Y, SpectReg(0.1), every=2, writers=[writer])
    state = trained(MonitorCallback(monitor), accumulate_grad_batches=2, logger=logger)
    for name, value in trained(accumulate_grad_batches=2).items():
        assert torch.equal(value, state[name]), name
    assert [record["step"] for record in monitor.records] == [0, 2, 4]  # steps of the optimizer
    assert (tmp_path / "watch.csv").read_text().count("\n") == 4
    logged = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "gradreg/gradient/share" in logged
    torch.manual_seed(0)
    module = Classifier().eval()
    assert monitor.records[0]["loss"] == pytest.approx(F.cross_entropy(module(X), Y).item(), rel=1e-6)


def test_a_fit_for_the_search() -> None:
    fit = lightning_fit(Classifier, (LOADER, LOADER), make_trainer)
    result = gradreg_core.search(fit, SpectReg(0.01), trainings=2, validation_size=16, progress=False)
    assert 0 <= result.none.score <= 1
    assert result.none.norm
    with pytest.raises(InputError, match=r"expected a validation metric 'accuracy', .* reports 'val_acc'"):
        lightning_fit(Classifier, lambda seed: (LOADER, LOADER), make_trainer, metric="accuracy")(None, 0)
