"""A whole batch on the device that trains: equal in distribution to albumentations' images."""

from types import SimpleNamespace

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from scipy.stats import ks_2samp
from toy import toy_data

import xray_lightning as xl
from xray_lightning.data.on_device import Changes, change
from xray_lightning.data.transforms import Augmentation, augment_light, augment_rsna, augment_xray14

SIZE = 65  # odd: its middle is a pixel
DRAWS = 1500
PHANTOM = xl.Phantom(patients=24, size=32)


def matrix(places: torch.Tensor, size: int = SIZE) -> np.ndarray:
    """Where each pixel goes to, (2, 3) in pixels, as OpenCV wants it."""
    unit = np.array([[2 / (size - 1), 0, -1], [0, 2 / (size - 1), -1], [0, 0, 1]])
    back = np.vstack([places.double().numpy(), [0, 0, 1]])
    return np.linalg.inv(np.linalg.inv(unit) @ back @ unit)[:2]


@pytest.mark.parametrize("make", [augment_light, augment_xray14, augment_rsna])
def test_draws_are_distributed_as_those_of_albumentations(make) -> None:
    """Every entry of the matrix and every weight of the blur, two-sample Kolmogorov-Smirnov."""

    class Kept(A.Compose):
        def __call__(self, **given):
            self.done = super().__call__(**given)
            return self.done

    own = make()
    own._compose = Kept(list(own.transforms), save_applied_params=True)
    image, mirror = np.zeros((SIZE, SIZE), np.uint8), np.diag([-1.0, 1.0, 1.0])
    mirror[0, 2] = SIZE - 1
    rows: dict[str, list[object]] = {"own": [], "theirs": []}
    for seed in range(DRAWS):
        own(image, seed)
        place, kernel = np.eye(3), np.array([0, 0, 1, 0, 0], float)
        for name, params in own._compose.done["applied_transforms"]:
            place = mirror @ place if name == "HorizontalFlip" else place
            place = params["matrix"] @ place if name == "Affine" else place
            if name == "GaussianBlur":
                kernel = np.pad(params["kernel"], (5 - len(params["kernel"])) // 2)
        rows["theirs"].append([*place[:2].ravel(), *kernel])
        drawn = own.changes.draw(seed, SIZE)
        blur = drawn.get("blurs", torch.tensor([0.0, 0, 1, 0, 0]))
        rows["own"].append([*matrix(drawn["places"]).ravel(), *blur.double().numpy()])
    for one, other in zip(np.round(rows["own"], 3).T, np.round(rows["theirs"], 3).T, strict=True):
        assert ks_2samp(one, other).pvalue > 1e-4


@pytest.mark.parametrize("make", [augment_light, augment_xray14, augment_rsna])
def test_pixels_are_those_of_opencv(make) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 2)
    drawn = [make().changes.draw(seed, SIZE) for seed in range(24)]
    batch = torch.from_numpy(image / np.float32(255)).expand(24, 1, SIZE, SIZE)
    found = change(batch, **{name: torch.stack([d[name] for d in drawn]) for name in drawn[0]})
    for one, told in zip(found[:, 0].numpy() * 255, drawn, strict=True):
        kernel = told.get("blurs", torch.tensor([0.0, 0, 1, 0, 0])).double().numpy()
        moved = cv2.warpAffine(image, matrix(told["places"]), (SIZE, SIZE))
        expected = cv2.sepFilter2D(moved, -1, kernel, kernel)
        apart = np.abs(one - expected.astype(float))
        assert apart.mean() < 0.6  # OpenCV rounds places to 1/32 of a pixel, and greys
        assert np.quantile(apart, 0.99) < 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("make", [augment_xray14, augment_rsna])
def test_a_gpu_gives_the_pixels_of_a_cpu(make) -> None:
    drawn = [make().changes.draw(seed, 224) for seed in range(64)]
    told = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
    images = torch.rand(64, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    found = change(images.cuda(), **{name: values.cuda() for name, values in told.items()})
    apart = (found.cpu() - change(images, **told)).abs()
    assert apart.mean() < 1e-4  # cuDNN's TF32 blurs with ten bits
    assert apart.flatten()[::7].quantile(0.999) < 4e-3


def fitted(folder, **settings) -> tuple[list[object], list[object]]:
    """The batches that a training and its validation see, on a CPU that stands in for a GPU."""
    data = toy_data(folder, of=PHANTOM, batch_size=8, **settings)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, len(data.labels)))
    task, seen = xl.XrayTask(net, labels=data.labels), ([], [])
    listen = LambdaCallback(
        on_train_batch_start=lambda _, __, batch, ___: seen[0].append(batch),
        on_validation_batch_start=lambda _, __, batch, *___: seen[1].append(batch),
    )
    place = {"accelerator": "cpu", "max_epochs": 2, "callbacks": [listen], "logger": False}
    pl.Trainer(**place, enable_progress_bar=False, enable_checkpointing=False).fit(task, data)
    loaders = (data.train_dataloader(), data.val_dataloader())
    by_hand = [next(iter(loader))["image"] for loader in loaders]
    assert all(images.is_floating_point() for images in by_hand)
    with pytest.raises(xl.ConfigError, match=r"not torch\.uint8: put a batch through its data mod"):
        task((by_hand[0] * 255).byte())
    return seen


@pytest.mark.parametrize("clahe", [False, True])
@pytest.mark.parametrize("make", [augment_light, augment_rsna])
def test_batches_depend_on_neither_workers_nor_residence(make, clahe, folder) -> None:
    first = fitted(folder, augment=make(on="gpu"), clahe=clahe, resident="false")
    second = fitted(folder, augment=make(on="gpu"), clahe=clahe, resident=True, workers=1)
    plain = fitted(folder, augment=make(on="cpu"), clahe=clahe)
    for subset, (own, others, on_cpu) in enumerate(zip(first, second, plain, strict=True)):
        assert len(own) == len(others) == len(on_cpu) > 1
        for one, other, usual in zip(own, others, on_cpu, strict=True):
            assert one.keys() == other.keys() == usual.keys()
            assert one["image_id"] == other["image_id"] == usual["image_id"]
            assert torch.equal(one["image"], other["image"])
            assert (one["image"].shape, one["image"].dtype) == (usual["image"].shape, torch.float32)
            assert torch.equal(one["image"], usual["image"]) == (subset == 1)


def test_images_as_they_are_need_no_change(folder) -> None:
    for augment in (None, Augmentation()):
        seen = fitted(folder, augment=augment, resident=False)
        assert all(batch["image"].max() <= 1 for batch in seen[0])


def test_what_cannot_be_is_refused(folder) -> None:
    with pytest.raises(xl.ConfigError, match="on must be one of auto, cpu, gpu, got 'tpu'"):
        augment_light(on="tpu")
    with pytest.raises(xl.ConfigError, match=r"augment\.on=gpu needs changes"):
        Augmentation([A.HorizontalFlip()], on="gpu")
    with pytest.raises(xl.ConfigError, match="resident must be one of auto, true, false, got 'no'"):
        toy_data(folder, of=PHANTOM, resident="no")
    for by_cpu in (augment_light(on="cpu"), Augmentation([A.HorizontalFlip()]), lambda im, _: im):
        with pytest.raises(xl.ConfigError, match="resident=true, but a CPU augments"):
            toy_data(folder, of=PHANTOM, resident=True, augment=by_cpu)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(world_size=1, strategy=strategy, limit_val_batches=1.0)
    for settings in ({"resident": "true"}, {"augment": augment_light(on="gpu")}):
        with pytest.raises(xl.ConfigError, match=r"resident=\w+: this run trains without a GPU"):
            toy_data(folder, of=PHANTOM, **settings).require_trainer(trainer)
    trainer.limit_val_batches = 0
    with pytest.raises(xl.ConfigError, match="limit_val_batches=0: validation chooses"):
        toy_data(folder, of=PHANTOM).require_trainer(trainer)
    assert Changes().draw(3, SIZE)["places"][0, 0] == -1  # a mirror image, always
