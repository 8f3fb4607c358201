"""Names of the classes of a head, in transformers' two tables, both ways."""

from typing import Any

from unheard.errors import ConfigError, shorten
from unheard.interop.huggingface.settings import Settings

MAX_CLASSES = 1_000_000


def read_labels(settings: Settings) -> tuple[str, ...]:
    """Read the names of the classes, in order.

    transformers writes neither of its two tables for a model of two classes without names.

    Raises:
        ConfigError: if they are not numbered 0, 1, ..., or the two tables disagree.
    """
    table = settings.values.get("id2label")
    inverse = settings.values.get("label2id")
    if table is None and isinstance(inverse, dict):
        table = {number: label for label, number in inverse.items()}
        if len(table) < len(inverse):
            raise settings.wrong("label2id", "a number of its own for each label", inverse)
    if table is None:
        count = settings.integer("num_labels", 2)
        if count > MAX_CLASSES:
            raise settings.wrong("num_labels", f"at most {MAX_CLASSES}", count)
        return tuple(map(default_label, range(count)))
    if not isinstance(table, dict) or not table:
        raise settings.wrong("id2label", "an object of number -> label", table)
    labels: dict[int, str] = {}
    for key, label in table.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() else key
        if type(number) is not int or not isinstance(label, str):
            raise settings.wrong("id2label", "an object of number -> label", {key: label})
        labels[number] = label
    holes = [number for number in range(len(table)) if number not in labels]
    if holes:
        raise ConfigError(
            f"{settings.source}: id2label is not valid: expected the numbers 0 to "
            f"{len(table) - 1}, found none for {shorten(map(str, holes))}."
        )
    if isinstance(inverse, dict) and len(set(labels.values())) == len(labels):
        for number, label in sorted(labels.items()):
            if inverse.get(label) not in (number, str(number)):
                raise ConfigError(
                    f"{settings.source}: id2label and label2id disagree: expected {number} for "
                    f"{label!r}, found {inverse.get(label)!r}. Restore the file from a copy."
                )
    return tuple(labels[number] for number in range(len(labels)))


def default_label(number: int) -> str:
    """Name a class that nobody named, as transformers does."""
    return f"LABEL_{number}"


def describe_labels(labels: tuple[str, ...], classes: int) -> dict[str, Any]:
    """Write the names of the classes; both tables, as transformers wants them."""
    names = labels or tuple(map(default_label, range(classes)))
    return {
        "id2label": {str(number): label for number, label in enumerate(names)},
        "label2id": {label: number for number, label in enumerate(names)},
    }
