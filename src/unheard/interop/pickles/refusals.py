"""What is said of a file that is not read."""

from pathlib import Path

from unheard.errors import CheckpointError, FormatError

ADVICE = (
    "A pickle can run any code when its own libraries open it: ask for the model as safetensors, "
    "or convert it on a machine that has nothing to lose."
)


def damaged(file: Path, what: str) -> CheckpointError:
    """Say that a file is not as it was written."""
    return CheckpointError(f"{file} is damaged: {what}. Copy or download the file again.")


def whole_network(file: Path, name: str = "a module") -> FormatError:
    """Say that a file holds a network with its code."""
    return FormatError(
        f"{file} holds a whole network with its code ({name}), not its weights: expected the "
        "state_dict(). Nothing of it was run. Load the file with the program that wrote it and "
        "save model.state_dict()."
    )


def not_needed(file: Path, what: str) -> FormatError:
    """Say that a pickle asks for what weights do not need."""
    return FormatError(
        f"{file}: the pickle {what}, which no checkpoint of weights needs. Nothing of it was "
        f"run. {ADVICE}"
    )
