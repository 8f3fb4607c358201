from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from unheard.errors import CheckpointError
from unheard.interop.joined_store import JoinedStore
from unheard.interop.safetensors_store import SafetensorsStore


def store(folder: Path, name: str, tensors: dict[str, Tensor]) -> SafetensorsStore:
    save_file(tensors, folder / name)
    return SafetensorsStore([folder / name])


def test_rows_come_together_in_order(tmp_path: Path) -> None:
    whole = torch.arange(10.0).reshape(5, 2)
    first = store(tmp_path, "0", {"w": whole[:2], "short": torch.ones(1), "n": torch.tensor(3)})
    second = store(tmp_path, "1", {"w": whole[2:4], "n": torch.tensor(4)})
    third = store(tmp_path, "2", {"w": whole[4:], "n": torch.tensor(5)})
    other = store(tmp_path, "3", {"b": torch.zeros(3)})
    joined = JoinedStore([[first, second, third], [other]])

    assert {name: t.shape for name, t in joined.tensors.items()} == {
        "w": (5, 2),
        "short": (1,),
        "n": (),
        "b": (3,),
    }
    assert torch.equal(joined.read("w"), whole)
    out = torch.full((5, 2), -1.0)
    assert joined.read("w", out=out) is out
    assert torch.equal(out, whole)
    assert joined.read("n") == 3
    assert torch.equal(joined.read("b"), torch.zeros(3))
    joined.verify()


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = store(tmp_path, "0", {"w": torch.ones(2, 2)})
    with pytest.raises(CheckpointError, match="do not fit together"):
        JoinedStore([[first, store(tmp_path, "1", {"w": torch.ones(2, 3)})]])
    with pytest.raises(CheckpointError, match="different types"):
        JoinedStore([[first, store(tmp_path, "2", {"w": torch.ones(2, 2).double()})]])
    with pytest.raises(CheckpointError, match="stored twice"):
        JoinedStore([[first], [store(tmp_path, "3", {"w": torch.ones(2, 2)})]])


def test_it_verifies_every_file(tmp_path: Path) -> None:
    path = tmp_path / "0"
    save_file({"w": torch.ones(2)}, path)
    good = store(tmp_path, "1", {"w": torch.ones(2)})
    joined = JoinedStore([[good, SafetensorsStore([path], hashes={path: "0" * 64})]])
    with pytest.raises(CheckpointError, match=str(path)):
        joined.verify()
