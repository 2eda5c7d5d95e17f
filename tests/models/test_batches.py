import pytest
import torch
from torch import nn

from xray_lightning.models.batches import iterate_batches, run_batches

NET = nn.Conv2d(1, 2, 3)


@pytest.mark.parametrize(
    ("count", "full", "sizes"),
    [(7, False, [3, 3, 1]), (7, True, [4, 3]), (2, True, [2]), (6, False, [3, 3])],
)
def test_sizes_of_batches(count: int, full: bool, sizes: list[int]) -> None:
    batches = list(iterate_batches(NET, torch.zeros(count, 1, 4, 4), 3, full=full))
    assert [len(batch) for batch in batches] == sizes


@pytest.mark.parametrize("full", [False, True])
def test_batches_are_joined_in_order_without_gradient(full: bool) -> None:
    images = torch.rand(7, 1, 5, 5)
    answer = run_batches(NET, images, batch_size=3, full=full)
    torch.testing.assert_close(answer, NET(images).detach())
    assert not answer.requires_grad
    sums = run_batches(NET, images, lambda batch: batch.sum(dim=(1, 2, 3)), batch_size=2)
    torch.testing.assert_close(sums, images.sum(dim=(1, 2, 3)))
