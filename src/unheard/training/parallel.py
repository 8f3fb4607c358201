"""How a network is held by the processes that train it: alone, in copies or in shards.

Whichever way, the gradient that the optimiser sees is the sum over all processes and
micro-batches, never a mean of means; the loop divides it once.
"""

import logging
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.nn.parallel import DistributedDataParallel

from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.models.transformer import Transformer
from unheard.training.config import Execution
from unheard.training.distributed import Ranks

log = logging.getLogger(__name__)


class Whole:
    """A network that one process has to itself.

    Attributes:
        learner: what an objective calls; attributes of the network can be read through it.
        stored: whose parameters learn, and are kept in checkpoints under their own names.
        sharded: whether each process has a part of every parameter only.
    """

    sharded = False

    def __init__(self, model: nn.Module) -> None:
        self.learner: nn.Module = model
        self.stored: nn.Module = model

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Context of a micro-batch's forward and backward pass; the last one of an update."""
        return nullcontext()

    def norm_share(self, parameters: Collection[nn.Parameter]) -> Tensor:
        """This process's part of the gradient's norm; the parts of all processes add up.

        Args:
            parameters: those that learn.

        Returns:
            () float32 or wider, for `norm`.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def norm(self, total: float) -> float:
        """Norm of the gradient, given the sum of all processes' parts."""
        return total

    def let_learn(self, names: Collection[str], *, learn: bool) -> None:
        """Let parameters learn from the next step on, or not."""
        for name in names:
            self.stored.get_parameter(name).requires_grad_(learn)

    def collect(self) -> None:
        """Bring what was learnt into the network that was handed over."""

    def in_use(self) -> AbstractContextManager[Any]:
        """Context of the whole run."""
        return nullcontext()


class Replicated(Whole):
    """A copy in each process; their gradients are added up while the backward pass goes on."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model)
        self._ranks = ranks
        # Layers are skipped, and convolutions or the whole encoder may be frozen for a while.
        self._copies = _Copies(
            model,
            find_unused_parameters=not _always_uses_all(model),
            gradient_as_bucket_view=True,
        )
        # Constants are the same everywhere from the start. The argument has two names by version.
        self._copies.broadcast_buffers = False
        self._copies.register_comm_hook(None, _add_up)
        self.learner = self._copies

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        """See `Whole.micro_batch`; nothing is sent before the last one."""
        return nullcontext() if last else self._copies.no_sync()

    def norm_share(self, parameters: Collection[nn.Parameter]) -> Tensor:
        """See `Whole.norm_share`: all have the same sum, the first process speaks for them."""
        norm = super().norm_share(parameters)
        return norm if self._ranks.first else torch.zeros_like(norm)


def hold(model: nn.Module, execution: Execution, ranks: Ranks) -> Whole:
    """Lay a network out for the processes that train it."""
    if ranks.alone:
        held = Whole(model)
    elif execution.parallel == "ddp":
        held = Replicated(model, ranks)
    else:
        # One process alone need not wait a second for what it never uses.
        from unheard.training.shards import Sharded

        held = Sharded(model, ranks)
    return held


@contextmanager
def prepared_layers(learner: nn.Module, execution: Execution) -> Iterator[None]:
    """Let Transformer layers be recomputed in the backward pass, or compiled, for the block."""
    found = transformers(learner)
    compiles = execution.compile and _can_compile()
    for transformer in found:
        transformer.recompute = execution.recompute
        for layer in transformer.layers if compiles else ():
            # Its forward alone: hooks and skipped layers stay outside of the graph.
            layer.forward = torch.compile(layer.forward, dynamic=True)
    try:
        yield
    finally:
        for transformer in found:
            transformer.recompute = False
            for layer in transformer.layers if compiles else ():
                del layer.forward


def skip_same_layers(learner: nn.Module, generator: torch.Generator | None) -> None:
    """Let all micro-batches of an update skip the same layers, in all processes.

    Args:
        learner: the network.
        generator: the same in all processes; None lets each micro-batch draw its own.
    """
    for transformer in transformers(learner):
        transformer.draw_skipped_once(generator)


class _Copies(DistributedDataParallel):
    """A wrapper through which the network's own attributes can be read."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


def _always_uses_all(model: nn.Module) -> bool:
    """Whether every parameter has a gradient in every step.

    Where it is not so, DDP has to look; where it is, it complains of having looked.
    """
    if not isinstance(model, PretrainingModel | MaskedUnitModel):
        return False
    encoder = model.config.encoder
    learn_all = all(parameter.requires_grad for parameter in model.parameters())
    return learn_all and encoder.layer_drop == 0 and encoder.feature_grad_scale > 0


def _add_up(state: None, bucket: GradBucket) -> torch.futures.Future[Tensor]:  # noqa: ARG001
    """Add gradients up over processes; without this, they would be averaged."""
    work = dist.all_reduce(bucket.buffer(), op=dist.ReduceOp.SUM, async_op=True)
    if work is None:
        raise RuntimeError("NCCL or gloo started no all-reduce.")
    return work.get_future().then(lambda done: done.value()[0])


def transformers(model: nn.Module) -> list[Transformer]:
    """Find the parts of a network whose layers can be skipped, recomputed or sharded."""
    return [module for module in model.modules() if isinstance(module, Transformer)]


def _can_compile() -> bool:
    """Compile something small, to find out whether there is a compiler for it."""
    try:
        torch.compile(lambda values: values.sin() + 1)(torch.ones(8))
    except Exception as error:  # noqa: BLE001 - a dozen kinds, and training goes on without
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning(
            "torch.compile does not work on this machine (%s): training goes on without it. On a "
            "CPU it needs a C++ compiler such as g++.",
            reason,
        )
        return False
    return True
