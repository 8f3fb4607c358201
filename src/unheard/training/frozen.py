"""Weights that stay as they are while others learn.

A frozen weight is no parameter: it gets no gradient and no state in the optimiser, and checkpoints
leave it out. So the training of an adapter of some megabytes stores some megabytes, whatever the
size of the network around it.
"""

from collections.abc import Callable

from torch import nn


def freeze(model: nn.Module, *, learns: Callable[[str], bool]) -> None:
    """Let only some parameters of a network learn; the others become constants.

    They keep their memory, move with the network from device to device, and are in no state dict.

    Args:
        model: the network.
        learns: says of the name of a parameter whether it shall learn.
    """
    for path, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not learns(f"{path}.{name}" if path else name):
                delattr(module, name)
                module.register_buffer(name, parameter.detach(), persistent=False)


def thaw(model: nn.Module) -> None:
    """Make parameters of all constants that `freeze` made; others of a network stay."""
    for module in model.modules():
        for name in sorted(module._non_persistent_buffers_set):
            weight = getattr(module, name)
            delattr(module, name)
            module.register_parameter(name, nn.Parameter(weight))
