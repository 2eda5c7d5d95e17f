"""Losses against PyTorch's, torchvision's, timm's and the papers' formulas."""

import math
import re
from fractions import Fraction
from functools import partial
from itertools import product

import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.ops import sigmoid_focal_loss

import xray_lightning as xl
from xray_lightning.models.network import multiply_along
from xray_lightning.training.losses import effective_number_weights

HERNIA = 613.0  # (86,524 - 141) / 141, the largest weight of NIH's training list
NAN = torch.nan
WEIGHT = torch.linspace(0.5, HERNIA, 14, dtype=torch.float64)
COUNTS = torch.stack([86_524 - torch.arange(14) ** 4, torch.arange(14) ** 4])  # label 0: never

LOSSES: dict[str, nn.Module] = {
    "bce": xl.BCE(),
    "smooth": xl.BCE(label_smoothing=0.1),
    "weighted": xl.WeightedBCE(WEIGHT, label_smoothing=0.05),
    "focal": xl.Focal(gamma=2.0, alpha=0.25, scale=2.0),
    "focal, flat": xl.Focal(gamma=0.3),
    "asymmetric": xl.Asymmetric(gamma_positive=1.0),
    "asymmetric, flat": xl.Asymmetric(gamma_negative=0.05, clip=0.0),
    "class balanced": xl.ClassBalanced(COUNTS, gamma=0.5),
    "auc": xl.PairwiseAUC(),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def batch(seed: int = 0, spread: float = 6.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(9, 14, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(torch.full((9, 14), 0.3, dtype=torch.float64), generator=generator)
    return logits.requires_grad_(), targets


def holes(targets: Tensor) -> Tensor:
    """Where targets shall be unknown, (B, L)."""
    return torch.rand(targets.shape, generator=torch.Generator().manual_seed(1)) < 0.4


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


def assert_same(ours: Tensor, theirs: Tensor, logits: Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, **tolerance)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits), **tolerance)


@every_loss
def test_unknown_targets_add_nothing(loss: nn.Module) -> None:
    """The values of unknown logits do not matter, and their gradient is exactly zero."""
    logits, targets = batch()
    unknown = holes(targets)
    targets = targets.masked_fill(unknown, NAN)
    found = loss(logits, targets)
    torch.testing.assert_close(loss(torch.where(unknown, -3 * logits + 1, logits), targets), found)
    slope = gradient(found, logits)
    assert (slope[unknown] == 0).all()
    assert (slope[~unknown] != 0).any()


@every_loss
def test_a_share_costs_its_parts(loss: nn.Module) -> None:
    """Shares y are y present and 1 - y absent ones; in no pair of the pairwise loss."""
    logits, targets = batch()
    column, unknown = holes(targets), torch.full_like(targets, NAN)
    share, absent, present = (
        loss(logits, torch.where(column, value, unknown)) for value in (0.7, 0.0, 1.0)
    )
    torch.testing.assert_close(share, 0.7 * present + 0.3 * absent)


@pytest.mark.parametrize(
    ("loss", "value"),
    [*((loss, NAN) for loss in LOSSES.values()), *product([xl.PairwiseAUC()], (0, 1))],
)
def test_without_a_known_target_or_a_pair_it_is_zero(loss: nn.Module, value: float) -> None:
    assert loss(torch.zeros(0, 14, requires_grad=True), torch.zeros(0, 14)).item() == 0
    logits, targets = batch()
    found = loss(logits, torch.full_like(targets, value))
    assert found.item() == 0
    assert (gradient(found, logits) == 0).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits(loss: nn.Module, dtype: torch.dtype) -> None:
    extremes = torch.tensor([-1e4, -104.0, -95.0, -20.0, 0.0, 20.0, 95.0, 104.0, 1e4])
    column = extremes.to(dtype).repeat(2).unsqueeze(1)  # every value absent, then present
    logits = column.repeat(1, 14).requires_grad_()
    targets = (torch.arange(18) >= 9).to(dtype).unsqueeze(1).repeat(1, 14)
    found = loss(logits, targets)
    assert torch.isfinite(found)
    assert torch.isfinite(gradient(found, logits)).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(loss: nn.Module, dtype: torch.dtype) -> None:
    logits, targets = batch()
    rounded = logits.detach().to(dtype)
    half = rounded.clone().requires_grad_()
    single = rounded.float().requires_grad_()
    with torch.autocast("cpu", dtype):  # as Lightning's mixed precision calls it
        ours = loss(half, targets.to(dtype))
    theirs = loss(single, targets.float())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)  # float32, or float64 by a weight
    torch.testing.assert_close(gradient(ours, half), gradient(theirs, single).to(dtype))


@every_loss
def test_single_precision_is_near_double(loss: nn.Module) -> None:
    logits, targets = batch()
    single = logits.detach().float().requires_grad_()
    ours, theirs = loss(single, targets.float()), loss(logits, targets)
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=0)
    found, expected = gradient(ours, single).double(), gradient(theirs, logits)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * scale)


@every_loss
def test_gradient_is_that_of_the_value(loss: nn.Module) -> None:
    logits, targets = batch(spread=1.5)
    targets = targets.masked_fill(holes(targets), NAN)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), logits, eps=1e-6, atol=1e-6)


def cross_entropy(weight: Tensor | None, smoothing: float, logits: Tensor, targets: Tensor):
    soft = targets * (1 - smoothing) + smoothing / 2
    weight = weight if weight is None else weight.nan_to_num(1.0)
    return F.binary_cross_entropy_with_logits(logits, soft, pos_weight=weight, reduction="none")


def focal(gamma: float, alpha: float | None, logits: Tensor, targets: Tensor) -> Tensor:
    return sigmoid_focal_loss(logits, targets, gamma=gamma, alpha=-1 if alpha is None else alpha)


def balanced(gamma: float, logits: Tensor, targets: Tensor) -> Tensor:
    absent, present = effective_number_weights(COUNTS, 0.9999)
    return focal(gamma, None, logits, targets) * (targets * present + (1 - targets) * absent)


LACKING = torch.cat([WEIGHT[:13], torch.tensor([NAN])])  # of a label without positives
SMOOTHED = list(product((None, WEIGHT, LACKING), (0.0, 0.1), (6.0, 100.0)))
FOCI = list(product((0.0, 0.5, 2.0), (None, 0.25, 1.0)))


@pytest.mark.parametrize(
    ("loss", "theirs", "scale", "spread"),
    [
        *(
            (xl.WeightedBCE(w, label_smoothing=s), partial(cross_entropy, w, s), 1, spread)
            for w, s, spread in SMOOTHED
        ),
        *((xl.Focal(gamma=x, alpha=a, scale=2), partial(focal, x, a), 2, 6.0) for x, a in FOCI),
        *((xl.ClassBalanced(COUNTS, gamma=x), partial(balanced, x), 1, 6.0) for x in (0.0, 2.0)),
    ],
)
def test_equals_torch_and_torchvision_where_targets_are_known(loss, theirs, scale, spread) -> None:
    logits, targets = batch(spread=spread)
    unknown = holes(targets)
    ours = loss(logits, targets.masked_fill(unknown, NAN))
    assert_same(ours, scale * theirs(logits, targets)[~unknown].mean(), logits)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("positive", "negative", "clip"),
    [(0, 4, 0.05), (1, 4, 0.05), (1, 2, 0), (0.5, 3, 0.3), (0, 0, 0.2), (0, 0, 0)],
)
def test_asymmetric_equals_timm(positive, negative, clip, constant) -> None:
    logits, targets = batch(spread=3.0)
    logits = logits.detach().float().requires_grad_()  # timm computes in float32
    unknown = holes(targets)
    gammas = {"gamma_positive": positive, "gamma_negative": negative}
    loss = xl.Asymmetric(**gammas, clip=clip, constant_focus=constant)
    ours = loss(logits, targets.masked_fill(unknown, NAN))
    options = {"disable_torch_grad_focal_loss": constant}
    timm = AsymmetricLossMultiLabel(negative, positive, clip, **options)
    # A row of one element: timm's sum, which later versions divide by the rows, is then its loss.
    known = ~unknown
    each = [timm(z.view(1, 1), y.view(1, 1)) for z, y in zip(logits[known], targets[known])]  # noqa: B905
    assert_same(ours, torch.stack(each).mean(), logits, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_an_absent_label_below_the_clip_costs_nothing(gamma: float) -> None:
    logits = torch.tensor([[-50.0, -3.0, math.log(0.05 / 0.95) - 1e-3]], requires_grad=True)
    loss = xl.Asymmetric(gamma_negative=gamma, clip=0.05)(logits, torch.zeros(1, 3))
    assert loss.item() == 0
    assert (gradient(loss, logits) == 0).all()


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999, 1 - 1e-12])
def test_effective_numbers_are_the_papers(beta: float) -> None:
    """In fractions, also near inverse frequencies; what does not occur has 1, and no part."""
    counts = torch.tensor([[900, 50, 7, 100, 0], [100, 1, 12, 0, 100]])
    b = Fraction(beta)
    plain = {n: (1 - b) / (1 - b**n) for n in counts.flatten().tolist() if n}
    mean = sum(plain[n] for n in counts[counts > 0].tolist()) / 8
    expected = [float(plain[n] / mean) if n else 1.0 for n in counts.flatten().tolist()]
    found = effective_number_weights(counts, beta)
    torch.testing.assert_close(found, torch.tensor(expected).view(2, 5))
    assert (effective_number_weights(torch.zeros(2, 3), beta) == 1).all()


def naive(logits: Tensor, targets: Tensor, margin: float, power: int) -> Tensor:
    """The paper's double sum, by a (positives, negatives) tensor for each label."""
    means = []
    for score, target in zip(torch.sigmoid(logits).T, targets.T, strict=True):
        x, y = score[target == 1], score[target == 0]
        if len(x) and len(y):
            gaps = x.unsqueeze(1) - y
            means.append(torch.where(gaps < margin, (margin - gaps) ** power, 0.0).mean())
    return torch.stack(means).mean()


def ranked_batch(rows: int = 60, spread: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and targets with every kind of column: mixed, all absent, all present, all unknown."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, 9, generator=generator, dtype=torch.float64)
    targets = torch.bernoulli(torch.full((rows, 9), 0.2, dtype=torch.float64), generator=generator)
    targets[torch.rand(targets.shape, generator=generator) < 0.2] = NAN
    targets[:, 3], targets[:, 4], targets[:, 5] = 0, 1, NAN
    return logits.requires_grad_(), targets


def assert_equals_naive(logits: Tensor, targets: Tensor, margin: float, power: int) -> None:
    ours = xl.PairwiseAUC(margin=margin, power=power)(logits, targets)
    theirs = naive(logits, targets, margin, power)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    found, expected = gradient(ours, logits), gradient(theirs, logits)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("power", [1, 2, 3, 7])
@pytest.mark.parametrize(("spread", "rows"), [(0.01, 60), (2.0, 60), (20.0, 60), (2.0, 200)])
def test_equals_all_pairs(margin: float, power: int, spread: float, rows: int) -> None:
    """Of 200 images many share a score, positives with negatives: their logits are rounded."""
    logits, targets = ranked_batch(rows, spread)
    if rows == 200:
        logits = logits.detach().round().requires_grad_()
        assert len(logits.detach()[:, 0].unique()) < 20
    assert_equals_naive(logits, targets, margin, power)


def test_few_small_violations_keep_their_digits() -> None:
    """Nearly perfect scores: a power of 1e-4 beside sums of order 1."""
    scores = torch.cat([torch.linspace(0.05, 0.4, 300), torch.linspace(0.6 - 1e-4, 0.95, 200)])
    logits = torch.logit(scores.double()).unsqueeze(1).requires_grad_()
    targets = (torch.arange(500) >= 300).double().unsqueeze(1)
    assert 0 < xl.PairwiseAUC()(logits, targets).item() < 1e-15
    assert_equals_naive(logits, targets, 0.2, 3)


@pytest.mark.parametrize(
    ("loss", "buffer"),
    [(xl.WeightedBCE([1, 1.5]), "positive_weight"), (xl.ClassBalanced(COUNTS.tolist()), "weights")],
)
def test_weights_move_with_their_module_but_stay_out_of_checkpoints(loss, buffer) -> None:
    assert not loss.state_dict()
    assert getattr(loss.double(), buffer).dtype == torch.float64


@pytest.mark.parametrize("counts", [COUNTS.T, COUNTS[0], -COUNTS])
def test_class_counts_that_are_none(counts: Tensor) -> None:
    start = re.escape(str(counts.tolist())[:7])
    with pytest.raises(xl.ConfigError, match=rf"^loss\.class_counts must be .*, got {start}"):
        xl.ClassBalanced(counts)


KINDS = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]]).bool()  # a chain: edema, airspace, opacity
NAMES = ("Edema", "Airspace Opacity", "Lung Opacity")
CHAIN = [  # targets, and the labels that are learned from such an image
    ((1, 1, 1), (0, 1, 2)),
    ((0, 1, 1), (0, 1, 2)),
    ((0, 0, 1), (1, 2)),
    ((0, 0, 0), (2,)),
    ((1, NAN, NAN), (0,)),  # who has edema has an opacity, which is not known by itself
    ((0, NAN, 1), (2,)),
]


def test_conditional_loss_is_cross_entropy_among_images_with_the_wider_finding() -> None:
    """By the head's own logits and torch's loss, target by target; gradients too."""
    net = xl.XrayNet(NAMES, "test_resnet", image_size=32)
    task = xl.XrayTask(net, xl.ConditionalBCE(KINDS))
    features = 5 * net.forward_features(torch.rand(6, 1, 32, 32)).detach()
    targets = torch.tensor([row for row, _ in CHAIN])
    theirs = net.head(features)
    terms = [
        F.binary_cross_entropy_with_logits(theirs[place, label], targets[place, label])
        for place, (_, labels) in enumerate(CHAIN)
        for label in labels
    ]
    scores = torch.sigmoid(net.forward_head(features))
    torch.testing.assert_close(scores, torch.sigmoid(theirs).flip(1).cumprod(1).flip(1))
    weight, loss = net.head.classifier.weight, task.loss(net.forward_head(features), targets)
    assert_same(loss, torch.stack(terms).mean(), weight, rtol=1e-4, atol=1e-5)
    again = xl.XrayNet(**net.config)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.forward_head(features), net.forward_head(features))


@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 20.0, 100.0, 1e4])
def test_conditional_loss_of_extreme_logits(value: float) -> None:
    logits = torch.full((6, 3), value, requires_grad=True)
    products = multiply_along(logits, torch.eye(3) + KINDS)
    loss = xl.ConditionalBCE(KINDS)(products, torch.tensor([row for row, _ in CHAIN]))
    slope = gradient(loss, logits)
    assert torch.isfinite(loss + slope.sum())
    torch.testing.assert_close(slope[3, 2], torch.tensor(value).sigmoid() / 11)  # of 11 terms


def test_what_has_no_hierarchy() -> None:
    with pytest.raises(xl.ConfigError, match=r"none of the labels Atelectasis, .* kind of another"):
        xl.XrayDataModule(xl.Phantom(20)).ancestors()
    with pytest.raises(xl.ConfigError, match=r"Conv2d has no condition\(ancestors\)"):
        xl.XrayTask(nn.Conv2d(1, 3, 1), xl.ConditionalBCE(KINDS), labels=NAMES)
