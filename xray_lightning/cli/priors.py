"""``prior=``: the prevalence that calibrated scores are to hold for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from xray_lightning.errors import ConfigError
from xray_lightning.evaluation.predictions import Predictions
from xray_lightning.metrics.calibration import estimate_prior
from xray_lightning.metrics.operating_points import Fitted

Prior = str | float | dict[str, float]
Pairs = dict[str, tuple[float, float]]  # label to the prevalence before and the wanted one

VALIDATION, ESTIMATE, FORCED = WORDS = "validation", "estimate", "force_estimate"


def read_prior(text: str) -> Prior:
    """The value of ``prior=``, written as for Hydra.

    Raises:
        ConfigError: it cannot be read, or works in no case.

    >>> read_prior("{Mass: 0.05}")
    {'Mass': 0.05}
    """
    try:
        (change,) = OverridesParser.create().parse_overrides([f"prior={text}"])
    except HydraException as error:
        raise _refusal(text) from error
    return require_prior(change.value())


def require_prior(value: Any) -> Prior:
    """A prior as plain values, before anything is computed.

    Raises:
        ConfigError: it is neither a word, a prevalence, nor a prevalence for each of some labels.
    """
    prior: Any = OmegaConf.to_container(value) if isinstance(value, DictConfig) else value
    if prior in WORDS:
        return str(prior)
    shares = list(prior.values()) if isinstance(prior, dict) else [prior]
    if not shares or not all(isinstance(each, float) and 0 < each < 1 for each in shares):
        raise _refusal(prior)
    return {str(k): v for k, v in prior.items()} if isinstance(prior, dict) else float(prior)


def _refusal(value: object) -> ConfigError:
    return ConfigError(
        "prior must be validation, estimate, force_estimate, a prevalence between 0 and 1 for all "
        f"labels, or one for each of some ({{Mass: 0.05}}), got {value!r}"
    )


def wanted_priors(
    prior: Prior, names: Sequence[str], labels: Mapping[str, Fitted]
) -> dict[str, str | float]:
    """What is wanted for each label whose calibration is to be corrected.

    Args:
        prior: "validation": none; "estimate" or "force_estimate": as the scores alone tell it
            (Saerens 2002); a number: that, for every calibrated label; or one for each of some.
        names: the labels of the data.
        labels: what validation says of each label.

    Raises:
        ConfigError: a label is unknown or has no calibration, or none has one.
    """
    if prior == VALIDATION:
        return {}
    able = [name for name in names if name in labels and labels[name].calibration]
    wanted = prior if isinstance(prior, dict) else dict.fromkeys(able, prior)
    for label in wanted:
        if label not in names:
            raise ConfigError(
                f"prior={prior}: {label!r} is no label here; there are {', '.join(names)}"
            )
    if absent := [label for label in wanted if label not in able] or ([] if able else ["all"]):
        notes = {labels[label].note for label in absent if label in labels} - {""}
        why = f" ({'; '.join(sorted(notes))})" if notes else ""
        raise ConfigError(
            f"prior={prior} corrects calibrated scores, and no calibration is there for "
            f"{', '.join(absent)}{why}: xray score fits one with points=val, and best.ckpt of a "
            "finished run holds one unless calibration=null"
        )
    return dict(wanted)


def corrections(
    prior: Prior, predictions: Predictions, labels: Mapping[str, Fitted]
) -> tuple[Pairs, dict[str, dict[str, Any]]]:
    """Prevalences that calibrations are to be corrected from and to, and how each does.

    An estimate is right if nothing but the prevalence changed, which known targets can refute: one
    that makes Brier's score worse is left out, unless ``prior`` is "force_estimate".

    Returns:
        The pairs to apply; and for each label with known targets plain values: "estimate", the
        "prevalence" of the targets, "brier" without and "corrected" with it, "applied".

    Raises:
        ConfigError: see :func:`wanted_priors`.
    """
    pairs, tests = {}, {}
    for label, value in wanted_priors(prior, predictions.labels, labels).items():
        calibration, before = labels[label].calibration, labels[label].prevalence
        if calibration is None:  # not of those wanted
            continue
        column = predictions.labels.index(label)
        scores, targets = predictions.scores[:, column], predictions.targets[:, column]
        plain = calibration(scores)
        now = estimate_prior(plain, before) if isinstance(value, str) else float(value)
        errors = [
            (plain - targets) ** 2,
            (calibration.at_prior(before, now)(scores) - targets) ** 2,
        ]
        known = ~np.isnan(targets)
        brier, corrected = (float(error[known].mean()) if known.any() else 0 for error in errors)
        applied = prior != ESTIMATE or corrected <= brier
        if applied:
            pairs[label] = before, now
        if known.any():
            tests[label] = {
                "estimate": now,
                "prevalence": float(targets[known].mean()),
                "brier": brier,
                "corrected": corrected,
                "applied": applied,
            }
    return pairs, tests


def prior_warnings(tests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning with both figures for the corrections that known targets refute; [] if none."""
    worse = {label: test for label, test in tests.items() if test["corrected"] > test["brier"]}
    if not worse:
        return []
    shown = [
        f"  {label}: prevalence {test['estimate']:.3f} (known: {test['prevalence']:.3f}), Brier "
        f"{test['brier']:.3f} to {test['corrected']:.3f}"
        for label, test in worse.items()
    ]
    means = (np.mean([test[name] for test in tests.values()]) for name in ("brier", "corrected"))
    fate = "applied all the same" if next(iter(worse.values()))["applied"] else "NOT applied"
    return [
        "warning: more than the prevalence changed: on the known targets the correction makes "
        f"Brier's score worse, and is {fate} for {len(worse)} of {len(tests)} labels (mean Brier "
        "of all, corrected: {:.3f} to {:.3f}; prior=force_estimate applies all)".format(*means),
        *shown,
    ]


def priors_line(pairs: Mapping[str, tuple[float, float]]) -> str:
    """What calibrated scores were corrected from and to."""
    shown = ", ".join(f"{label} {a:.3f} to {b:.3f}" for label, (a, b) in pairs.items())
    return f"calibrated scores are corrected to another prevalence: {shown}"
