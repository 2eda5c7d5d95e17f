"""What the page of a run says in sentences: the summary, the warnings, the limitations."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from xray_lightning.evaluation.evaluate import Evaluation
from xray_lightning.evaluation.published import incomparable, place_among, read_published
from xray_lightning.metrics.estimates import FEW_PATIENTS
from xray_lightning.records import patients_text
from xray_lightning.writing import Json, to_plain

Values = Mapping[str, Any]  # of report.json, as far as they are there


def summarise_run(values: Values) -> list[str]:
    """How good the model is, on what, its weakest label, and what it may be compared with."""
    test, split = values["test"], values["split"]
    mean, count = test["mean"]["auroc"], f"{test['defined']['auroc']} of {len(test['labels'])}"
    where = (
        f"On the {test['images']:,} test images of {patients_text(test['patients'])} "
        f"of {values['data']} (split {split['name']} [{split['fingerprint']}], "
        f"test set [{test['fingerprint']}])"
    )
    published_text = values["published"]["sentence"]
    if mean["value"] is None:
        return [f"{where} no label has an AUROC.", published_text]
    first = f"{where} the mean AUROC over {count} labels is "
    first += _with_interval(mean, "patients resampled")
    ends = mean["patient_interval"]
    if ends and ends[0] <= 0.5 <= ends[1]:
        first += ": it cannot be told from guessing (0.5)"
    known = {k: v["auroc"] for k, v in test["labels"].items() if v["auroc"]["value"] is not None}
    weakest, best = (pick(known, key=lambda k: known[k]["value"]) for pick in (min, max))
    positives = test["labels"][weakest]["positives"]
    second = f"Weakest is {weakest}, "
    second += _with_interval(known[weakest], f"positive images: {positives:,}")
    second += f". Best is {best}, {_with_interval(known[best])}." if best != weakest else "."
    return [f"{first}.", second, published_text]


def _with_interval(estimate: Values, more: str = "") -> str:
    ends = estimate["patient_interval"]
    text = "no interval" if ends is None else f"95 % {ends[0]:.3f} to {ends[1]:.3f}"
    text += ", exact by the number of patients" if estimate.get("exact") else ""
    return f"{estimate['value']:.3f} ({'; '.join(filter(None, (text, more)))})"


def list_warnings(values: Values) -> list[str]:
    """What makes the numbers worth less than they look."""
    test, leaked, training = values["test"], values["split"]["leaked_patients"], values["training"]
    warnings = {
        f"The split leaks: {leaked or 0:,} patients have images in more than one subset, so the "
        "test figures flatter.": leaked,
        "Patients are not known, so each image counts as its own: the split may leak, and the "
        "intervals are too narrow.": test["patients"] is None
        or test.get("patients_known") is False,
        "Validation AUROC was undefined in every epoch: the checkpoint is of the last one, not "
        "of the best.": training["epochs"] and training["best_epoch"] is None,
        f"Where it looks is not shown: {values['explain_missing']}.": values["explain_missing"],
        "The images are synthetic: these figures say nothing about patients.": _synthetic(values),
    }
    return [text for text, applies in warnings.items() if applies]


def _synthetic(values: Values) -> bool:
    return bool(values["reproduce"]["data"]["name"] == "phantom")  # the title may say more


def compare_published(evaluation: Evaluation) -> Json:
    """Published results that may stand beside an evaluation, and those that may not."""
    origin, mean = evaluation.origin, evaluation.metrics.mean["auroc"].value
    reason = incomparable(
        origin.data,
        list(evaluation.metrics.labels),
        origin.split.name if origin.split else "",
        origin.subset or "",
        known=origin.data_images,
        scored=evaluation.images,
    )
    beside = evaluation.published
    if reason or mean != mean:  # NaN
        sentence = f"No published result can stand beside it: {reason or 'it has no mean'}."
    else:
        text = place_among(mean, beside)
        sentence = f"{text[0].upper()}{text[1:]}."
    works = {row.work for row in beside}
    kept = ("work", "year", "split", "mean", "primary", "note")
    return {
        "sentence": sentence,
        "ranked": bool(beside) and beside[0].split == "official",
        "rows": to_plain(beside),
        "elsewhere": [
            {key: getattr(row, key) for key in kept}
            for row in read_published()
            if origin.data == "nih" and row.work not in works
        ],
    }


def list_limitations(values: Values) -> list[str]:
    """What the files do not tell, one sentence each."""
    test, points, audit = values["test"], values["operating_points"], values["audit"]
    labels = test["labels"]
    undefined = {label: row["undefined"] for label, row in labels.items() if row["undefined"]}
    behind = {k: row["positive_patients"] for k, row in labels.items() if k not in undefined}
    few = {label: count for label, count in behind.items() if count < FEW_PATIENTS}
    rough = {k: n for k, n in behind.items() if labels[k]["auroc"]["patient_interval"] is None}
    blank = {k: test["images"] - row["known"] for k, row in labels.items()}
    texts = [f"{label}: AUROC is undefined, {why}." for label, why in undefined.items()]
    texts += _name(f"Fewer than {FEW_PATIENTS} positive patients, so intervals are rough", few)
    texts += _name("No interval, since the positives are of too few patients", rough)
    texts += _name("Test images whose target is unknown and left out", _positive(blank))
    texts += _name("No operating point", points["without"])
    texts += _name("Calibration", points["doubts"])
    texts += _limits_of_pooling(test.get("pooled"))
    texts += _limits_of_groups(values)
    texts += audit["notes"] if audit else [f"The split was not audited: {values['audit_missing']}."]
    return texts + _limits_of_every_run(values)


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}


def _name(text: str, names: Mapping[str, object]) -> list[str]:
    """A sentence and the names it is about, with a value each; none without a name."""
    if not names:
        return []
    if len(names) > 1 and len(set(names.values())) == 1:  # all for one reason
        return [f"{text} ({next(iter(names.values()))}): {', '.join(names)}."]
    return [f"{text}: {', '.join(f'{name} ({value})' for name, value in names.items())}."]


def _limits_of_pooling(pooled: Values | None) -> list[str]:
    """What is won by telling hospitals apart, for labels that several of them tell."""
    if not pooled:
        return []
    alone = {name: f"{each['value']:.3f}" for name, each in pooled["hospital_alone"].items()}
    text = "AUROC pooled over hospitals can be won by telling them apart; that of prevalences alone"
    told = {k: each["value"] for k, each in pooled["probe"].items() if each["value"] is not None}
    probe = "AUROC at which the network's features tell the hospital"
    return [*_name(text, alone), *_name(probe, {k: f"{value:.3f}" for k, value in told.items()})]


def _limits_of_groups(values: Values) -> list[str]:
    """Groups too small to evaluate, and images of no known group."""
    rows, total = values["subgroups"]["rows"], values["test"]["images"]
    images: Counter[str] = Counter()
    for row in rows:
        images[row["dimension"]] += row["images"]
    blank = _positive({name: total - images[name] for name in ("sex", "age", "view", "follow-up")})
    texts = _name(f"Test images (of {total:,}) whose group is unknown", blank)
    if few := sum(bool(row["note"]) for row in rows):
        texts.append(
            f"{few} of {len(rows)} subgroups have too few positives or negatives of every label "
            "for a figure: nothing is known of the model there."
        )
    return texts


def _limits_of_every_run(values: Values) -> list[str]:
    best, epochs = values["training"]["best_epoch"], values["training"]["epochs"]
    chosen = f" The checkpoint, epoch {best} of {epochs}, was chosen on validation." if best else ""
    calibrated = values["operating_points"]["calibration"]
    limits = {
        "The test set comes from the same data set as the training set "
        f"({values['data']}): this is not an external validation.": True,
        f"This is one training run (seed {values['reproduce']['seed']}): how much another seed "
        f"would change is not known.{chosen}": True,
        "Labels are taken as they are: how many are wrong is not known.": not _synthetic(values),
        f"Calibrated scores ({calibrated}) are probabilities at validation's prevalence only.":
            calibrated,
        "Near-duplicate images under different ids were not looked for.": True,
        "For research. Not a medical device: nothing here says what a use on patients would do.":
            True,
    }  # fmt: skip
    return [text for text, applies in limits.items() if applies]
