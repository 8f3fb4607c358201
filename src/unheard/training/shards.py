"""A network of which each process has a share: FSDP2."""

import copy
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from unheard.training.distributed import Ranks
from unheard.training.parallel import Whole, transformers


class Sharded(Whole):
    """A part of every parameter, its gradient and its moments in each process: FSDP2.

    The network that was handed over stays whole, as a place to collect the weights in: for
    validation, for the best ones and at the end. So a process needs room for all weights, but for
    its share only of gradients and moments.
    """

    sharded = True

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        super().__init__(model)
        self._whole = model
        self._started = False
        mesh = init_device_mesh(ranks.device.type, (ranks.world,))
        twin = copy.deepcopy(model)
        for transformer in transformers(twin):
            for layer in transformer.layers:
                fully_shard(layer, mesh=mesh)
        fully_shard(twin, mesh=mesh)
        self._parts = [module for module in twin.modules() if isinstance(module, FSDPModule)]
        for part in self._parts:
            # Sums: without these two, gradients would be means over processes.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        self._root = self._parts[0]
        self.learner = self.stored = twin

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """See `Whole.micro_batch`; gradients are kept whole and at home before the last one."""
        self._started = True
        self._root.set_requires_gradient_sync(last)
        self._root.set_is_last_backward(last)
        yield

    def norm_share(self, parameters: Collection[nn.Parameter]) -> Tensor:
        """See `Whole.norm_share`: squares can be added up."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        parts = [part.to_local() if isinstance(part, DTensor) else part for part in gradients]
        return nn.utils.get_total_norm(parts).double().square()

    def norm(self, total: float) -> float:
        """See `Whole.norm`."""
        return total**0.5

    def let_learn(self, names: Collection[str], *, learn: bool) -> None:
        """See `Whole.let_learn`; a part keeps two sets of parameters, with a switch each."""
        if self._started:
            for part in self._parts:
                part.unshard()
                super().let_learn(names, learn=learn)
                part.reshard()
        super().let_learn(names, learn=learn)

    @torch.no_grad()
    def collect(self) -> None:
        """See `Whole.collect`: one parameter after the other."""
        whole = self._whole.state_dict()
        for name, part in self.stored.state_dict().items():
            whole[name].copy_(part.full_tensor() if isinstance(part, DTensor) else part)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """See `Whole.in_use`; what a network gives is never changed in place here."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
            yield
