from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from unheard.errors import CheckpointError
from unheard.training.stored import StoredTensors, own_part, shard_name


def store(folder: Path, tensors: dict[str, Tensor], *, world: int) -> None:
    """Store tensors as `world` processes would: rows cut as torch.chunk cuts them."""
    for path in folder.glob("model-*"):
        path.unlink()
    for rank in range(world):
        parts = {}
        for name, tensor in tensors.items():
            each = -(-tensor.shape[0] // world) if tensor.ndim else 0
            if tensor.ndim:
                parts[name] = tensor[each * rank : each * (rank + 1)].clone()
            elif rank == 0:
                parts[name] = tensor
        save_file(parts, folder / shard_name("model", rank=rank, world=world))


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_tensors_come_back_whole_from_any_number_of_shards(tmp_path: Path, world: int) -> None:
    tensors = {"a": torch.randn(7, 3), "b": torch.randn(1, 1, 4), "step": torch.tensor(3.0)}
    store(tmp_path, tensors, world=world)
    found = StoredTensors(tmp_path, "model")
    assert found.shapes == {"a": (7, 3), "b": (1, 1, 4), "step": ()}
    for name, tensor in tensors.items():
        assert torch.equal(found.whole(name), tensor)


@given(rows=st.integers(1, 9), world=st.integers(1, 6), data=st.data())
def test_any_rows_can_be_read(
    rows: int, world: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    tensor = torch.arange(rows * 2.0).view(rows, 2)
    store(folder, {"a": tensor}, world=world)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    found = StoredTensors(folder, "model").rows("a", start, stop)
    assert torch.equal(found, tensor[start:stop])


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / shard_name("model", rank=0, world=2))
    save_file({"a": torch.zeros(2, 4)}, tmp_path / shard_name("model", rank=1, world=2))
    with pytest.raises(CheckpointError, match=r"rows of a are of shape \(4,\), expected \(3,\)"):
        StoredTensors(tmp_path, "model")


def test_a_folder_without_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model\.safetensors and no shards"):
        StoredTensors(tmp_path, "model")


def test_what_is_not_sharded_is_stored_once() -> None:
    tensor = torch.zeros(3)
    assert own_part(tensor, first=True) is tensor
    assert own_part(tensor, first=False) is None
