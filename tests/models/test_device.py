"""Memory that does not suffice, as torch and Python say it."""

import pytest
import torch

from spec_opt.models.device import is_out_of_memory


def test_a_tensor_larger_than_any_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert type(caught.value) is RuntimeError
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("Cannot allocate memory"), False),
    ],
)
def test_which_errors_are_meant(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
