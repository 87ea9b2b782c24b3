"""Several processes that train one model: started by `torchrun` or Ray Train, they find each other by the environment.

With `ddp` each has the whole model and a share of every step's batches. With `fsdp` (FSDP2) each also has only a part
of every weight and of its moments, and the parts are put together block by block while a step runs.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from habitus.training.checkpoints import beside, put, read_checkpoint

if TYPE_CHECKING:
    from habitus.training.fit import TrainingConfig

PATIENCE = timedelta(hours=12)  # the first process may fit calibrators while the others wait; dead ones are told apart


def is_launched() -> bool:
    """Tell whether this is one of several processes, as `torchrun` and Ray Train start them."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def world_size() -> int:
    """Give the number of processes that train together."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def is_first() -> bool:
    """Tell whether this process writes what all have in common."""
    return not is_launched() or int(os.environ["RANK"]) == 0


def barrier() -> None:
    """Wait until all processes are here."""
    if is_launched() and dist.is_initialized():
        dist.barrier()


def join() -> None:
    """Join the processes, for as long as this one lives; those that Ray has joined stay so. Alone it does nothing."""
    if is_launched() and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def first_then_others() -> Iterator[None]:
    """Let the first process do a block, then all others: they find on disk what the first has made there."""
    if not is_first():
        barrier()
    try:
        yield
    finally:
        if is_first():
            barrier()


def devices_of(config: TrainingConfig) -> dict[str, Any]:
    """Give Lightning's `devices`, `num_nodes` and `strategy`."""
    if not is_launched():
        is_one = str(config.devices) == "1"
        alone = "auto" if is_one or config.strategy == "fsdp" else config.strategy
        return {"devices": config.devices, "strategy": alone}
    size = world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    ddp = "ddp_find_unused_parameters_true"  # a loss may read one head of many, or no target of a head in this batch
    chosen = sharded_strategy() if is_to_shard(config) else ddp if size > 1 else "auto"
    return {"devices": local, "num_nodes": max(size // local, 1), "strategy": chosen}


def environments() -> list[Any]:
    """Give the plug-in by which Lightning finds the other processes."""
    if not is_launched():
        return []
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    return [TorchElasticEnvironment()]


def is_to_shard(config: TrainingConfig) -> bool:
    """Tell whether weights are cut up: asked for, and there are several processes."""
    return config.strategy == "fsdp" and world_size() > 1


def is_sharded(strategy: Any) -> bool:
    """Tell whether a strategy of Lightning cuts weights up."""
    return type(strategy).__name__ == "Sharded"


def sharded_strategy() -> Any:
    """Give Lightning's strategy for FSDP2 whose checkpoints are folders of pieces, written beside, then renamed."""
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Sharded(ModelParallelStrategy):
        def save_checkpoint(self, checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
            path = Path(filepath)
            super().save_checkpoint(checkpoint, beside(path)[0], storage_options)
            self.barrier()
            if self.is_global_zero:
                put(path)
            self.barrier()

        def load_checkpoint(self, checkpoint_path: Any, weights_only: Any = None) -> dict[str, Any]:
            path = Path(checkpoint_path)
            if path.is_dir():
                return super().load_checkpoint(checkpoint_path, weights_only)
            content = read_checkpoint(path)  # of a run whose devices had the whole model
            scatter(self.model, self.optimizers[0], content)  # pyright: ignore
            return content

    return Sharded(data_parallel_size=world_size(), tensor_parallel_size=1)


def shard(module: Any) -> None:
    """Cut the weights of a Lightning module over its mesh: each block of a list by itself, the rest with the root.

    A block's weights are whole only while it runs; those of the root, tables of items too, for a whole step. A model
    whose blocks run by other methods than `forward` names them: `CALLED_BY = {"blocks": ("attend", "finish")}`; with
    none named, the blocks of that list stay with the root.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = module.device_mesh["data_parallel"]
    for owner in list(module.modules()):
        for name, part in owner.named_children():
            methods = getattr(owner, "CALLED_BY", {}).get(name, ("forward",))
            for block in part if isinstance(part, nn.ModuleList) and methods else ():
                if any(True for _ in block.children()):
                    fully_shard(block, mesh=mesh)
                    for method in methods:
                        register_fsdp_forward_method(block, method)
    fully_shard(module, mesh=mesh)
    for method in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, method)


def whole_weights(module: nn.Module) -> dict[str, Tensor]:
    """Put the weights together in the first process; elsewhere the answer is empty. Called by all."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(module, options=options))  # pyright: ignore


def scatter(module: Any, optimizer: Any, content: Mapping[str, Any]) -> None:
    """Cut whole weights and a whole state of the optimiser, by numbers, over the devices. Called by all."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    known = {id(weight): name for name, weight in module.named_parameters()}
    names = [known[id(weight)] for group in optimizer.param_groups for weight in group["params"]]
    state, options = content["optimizer_states"][0], StateDictOptions(full_state_dict=True)
    named = {
        "state": {names[number]: value for number, value in state["state"].items()},
        "param_groups": [g | {"params": [names[number] for number in g["params"]]} for g in state["param_groups"]],
    }
    set_model_state_dict(module, dict(content["state_dict"]), options=options)
    set_optimizer_state_dict(module, optimizer, named, options=options)


def by_number(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Turn a state of an optimiser by names of weights into one by their numbers, in the order of `names`.

    A state that is by numbers already is given as it is.
    """
    if not any(isinstance(key, str) for key in state["state"]):
        return dict(state)
    place = {name: number for number, name in enumerate(names)}
    groups = [group | {"params": [place[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {place[name]: value for name, value in state["state"].items()}, "param_groups": groups}
