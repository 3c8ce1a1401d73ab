"""Two ranks' runs of the Trainers of transformers and Lightning: trained_in_parts.py SIZE FOLDER.

Rank 0 saves the parameters that each run ends with.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import gradreg_torch as gradreg


def flat(parameters: Iterable[Any]) -> torch.Tensor:
    """All parameters in a row, whole where processes have parts of them."""
    return torch.cat([getattr(value, "full_tensor", lambda v=value: v)().detach().flatten() for value in parameters])


def of_transformers(
    task: str, batch: int, folder: Path, accumulate: int = 1, **chosen: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The parameters after two steps of 12 samples, and the first log."""
    import accelerate
    from transformers import TrainingArguments

    import texts
    from gradreg_torch.transformers import RegularizedTrainer

    settings = TrainingArguments(
        str(folder),
        max_steps=2,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulate,
        logging_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        disable_tqdm=True,
        **chosen,
    )
    place = {"token": "embeddings", "causal": "embed_tokens"}[task]
    weight = {"token": 0.2, "causal": 1e-4}[task]
    reg = gradreg.SpectReg(weight, at=place) + gradreg.DataGrad(weight, at=place) + gradreg.WeightDecay(0.1)
    trainer = RegularizedTrainer(texts.model(task), settings, train_dataset=texts.sentences(task), reg=reg)
    if "fsdp" in chosen:  # which accelerate leaves alone where there is no GPU, without a word
        state = trainer.accelerator.state
        state.distributed_type = accelerate.DistributedType.FSDP
        state.fsdp_plugin = accelerate.FullyShardedDataParallelPlugin(**settings.fsdp_plugin_args)
        trainer.is_fsdp_enabled = True
    trainer.train()
    assert all(hasattr(parameter, "full_tensor") == bool(chosen) for parameter in trainer.model.parameters())
    return flat(trainer.model.parameters()), trainer.state.log_history[0]


def of_lightning(batch: int, accumulate: int, rank: int = 0, size: int = 1, strategy: Any = "ddp") -> torch.Tensor:
    """The parameters after two steps of 12 samples; each micro-batch is split over the ranks in order."""
    from torch.utils.data import DataLoader, TensorDataset

    import lightning_digits

    kind = lightning_digits.Digits if strategy == "ddp" else lightning_digits.ShardedDigits
    module = kind(gradreg.SpectReg(0.2) + gradreg.DataGrad(0.5))
    parts = torch.arange(24).split(batch)[rank::size]
    own = torch.cat(list(parts))
    data = DataLoader(TensorDataset(*(array[own] for array in lightning_digits.digits(24))), batch_size=batch)
    chosen = {"devices": size, "strategy": strategy, "use_distributed_sampler": False} if size > 1 else {}
    lightning_digits.trainer(accumulate_grad_batches=accumulate, **chosen).fit(module, data)
    assert all(hasattr(parameter, "full_tensor") == (strategy != "ddp") for parameter in module.parameters())
    return flat(module.parameters())


def main(rank: int, size: int, port: int, folder: Path) -> None:
    """Run, and save what rank 0 ends with."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    results: dict[str, Any] = {task: of_transformers(task, 3, folder, accumulate=2) for task in ("token", "causal")}
    shards = {"fsdp": True, "fsdp_config": {"version": 2}}
    results["causal, sharded"] = of_transformers("causal", 3, folder, accumulate=2, **shards)
    os.environ |= {"TORCHELASTIC_RUN_ID": "parts", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(size)}
    results["lightning"] = of_lightning(3, 2, rank, size)
    results["lightning, sharded"] = of_lightning(3, 2, rank, size, ModelParallelStrategy(size, 1))
    if rank == 0:
        torch.save(results, folder / "results.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import lightning_digits  # noqa: F401
    import ranks
    import texts  # noqa: F401 - once, before there are two processes
    from gradreg_torch import transformers  # noqa: F401

    ranks.fork(main)
