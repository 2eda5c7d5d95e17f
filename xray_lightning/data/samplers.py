"""Which images an epoch shows and in which order, a function of (seed, epoch) alone.

A plan takes the targets (N, L) and the patients of the N training images and a generator, and
gives the positions of one epoch's images. Every process computes the same plan and takes its
share of it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.random import Generator
from torch.utils.data import DistributedSampler

from xray_lightning.errors import DataError, require_number
from xray_lightning.wording import fault

Targets = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]
Plan = Callable[[Targets, Sequence[str], Generator], Order]
SampleKey = tuple[int, int]  # position in the data set, seed of its augmentation


def uniform_sampler(targets: Targets, patients: Sequence[str], generator: Generator) -> Order:
    """Every image once, (N,).

    >>> targets, patients = np.zeros((3, 1), np.float32), ["a", "a", "b"]
    >>> uniform_sampler(targets, patients, np.random.default_rng(0)).tolist()
    [2, 0, 1]
    """
    return generator.permutation(len(targets))


def disease_balanced_sampler(
    targets: Targets, patients: Sequence[str], generator: Generator, *, normal_share: float = 0.5
) -> Order:
    """Normal images in a fixed share; for the others a finding is drawn, then an image of it, (N,).

    Findings are drawn uniformly among those with positives, their images uniformly and with
    replacement, as in xray14-keras, which never showed a normal image: ``normal_share=0`` is its
    sampler. The normal images, all of whose targets are known to be 0, take turns: none comes
    twice before each came once.

    Raises:
        ConfigError: the share is not in [0, 1).
        DataError: there is no positive target, or no normal image to make up the share.
    """
    require_number("sampler.normal_share", normal_share, 0, 1)
    images_of = [np.flatnonzero(column) for column in (targets == 1).T if column.any()]
    if not images_of:
        raise DataError("disease_balanced: no training image has a positive; use sampler=uniform")
    normal = np.flatnonzero((targets == 0).all(axis=1))
    if normal_share > 0 and not len(normal):
        raise DataError(fault("no_normal_image"))
    count = round(normal_share * len(targets))
    findings = generator.integers(len(images_of), size=len(targets) - count)
    drawn = zip(images_of, np.bincount(findings, minlength=len(images_of)), strict=True)
    ill = [generator.choice(images, size=times) for images, times in drawn]
    well = np.resize(generator.permutation(normal), count)
    return generator.permutation(np.concatenate([well, *ill]))


def patient_balanced_sampler(
    targets: Targets, patients: Sequence[str], generator: Generator
) -> Order:
    """One image of each patient, drawn uniformly among the patient's, (patients,)."""
    shuffled = generator.permutation(len(patients))
    _, first = np.unique(np.asarray(patients)[shuffled], return_index=True)
    return generator.permutation(shuffled[first])


def hospital_balanced_sampler(
    targets: Targets,
    patients: Sequence[str],
    generator: Generator,
    *,
    hospitals: Sequence[str],  # of each image; the data module gives them
) -> Order:
    """As many images of each data set read together, (N,); drawn anew each epoch.

    Those of a small set take turns: none comes twice before each came once.

    Raises:
        DataError: there is one data set alone.

    >>> order = hospital_balanced_sampler(
    ...     np.zeros((5, 1)), "abcde", np.random.default_rng(0), hospitals="xxxxy")
    >>> sorted(order.tolist())[-2:]
    [4, 4]
    """
    names, codes = np.unique(np.asarray(list(hospitals)), return_inverse=True)
    if len(names) < 2:
        raise DataError("hospital_balanced balances several data sets (data=several); here is one")
    ends = np.linspace(0, len(codes), len(names) + 1).round().astype(np.int64)
    drawn = [
        np.resize(generator.permutation(np.flatnonzero(codes == code)), count)
        for code, count in enumerate(np.diff(ends))
    ]
    return generator.permutation(np.concatenate(drawn))


class EpochSampler(DistributedSampler[SampleKey]):  # by type alone: Lightning leaves it as it is
    """A new order and new augmentation seeds each epoch, derived from (seed, epoch) alone."""

    def __init__(
        self,
        plan: Callable[[Generator], Order],  # of the same length each time
        length: int,  # number N of training images
        *,
        batch_size: int,  # to know the size of the last one
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(range(length), world, rank, seed=seed)  # type: ignore[arg-type]
        self.plan, self.length = plan, length
        share = len(plan(np.random.default_rng((seed, 0)))) // world
        # batch norm cannot train on a last batch of one: it is left out, another the next time
        self.num_samples = share - 1 if share % batch_size == 1 and share > 1 else share

    def __iter__(self) -> Iterator[SampleKey]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = self.plan(generator)
        seeds = generator.integers(2**31, size=self.length)  # seeds[i] belongs to image i
        before = pd.Series(order).groupby(order).cumcount().to_numpy()  # draws of the same image
        seeds = (seeds[order] + before) % 2**31  # the next number belongs to its next draw
        mine = slice(self.rank, None, self.num_replicas)
        keys = zip(order[mine].tolist(), seeds[mine].tolist(), strict=True)
        return islice(keys, self.num_samples)


class Shard(DistributedSampler[int]):
    """Every world-th image in table order from the rank-th on: none twice, none to fill up."""

    def __init__(self, length: int, *, rank: int = 0, world: int = 1) -> None:
        super().__init__(range(length), world, rank, shuffle=False)  # type: ignore[arg-type]
        self.positions = range(rank, length, world)
        self.num_samples = len(self.positions)

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)
