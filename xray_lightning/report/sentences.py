"""What the page of a run says in sentences: the verdict, the warnings, what is not known."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from xray_lightning.evaluation.published import place_among, published
from xray_lightning.metrics.estimates import FEW_PATIENTS
from xray_lightning.records import patients_text

Facts = Mapping[str, Any]


def verdict(facts: Facts) -> list[str]:
    """How good the model is, on what, its weakest label, and what it may be compared with.

    Args:
        facts: of :func:`~xray_lightning.report.run_facts.run_facts`, as far as they are there.
    """
    test, split = facts["test"], facts["split"]
    auroc, count = test["mean"]["auroc"], f"{test['defined']['auroc']} of {len(test['labels'])}"
    where = (
        f"On the {test['images']:,} test images of {patients_text(test['patients'])} "
        f"of {facts['data']} (split {split['name']} [{split['fingerprint']}], "
        f"test set [{test['fingerprint']}])"
    )
    if auroc["value"] is None:
        return [f"{where} no label has an AUROC.", facts["published"]["sentence"]]
    first = f"{where} the mean AUROC over {count} labels is "
    first += _with_interval(auroc, "patients resampled")
    ends = auroc["patient_interval"]
    if ends and ends[0] <= 0.5 <= ends[1]:
        first += ": it cannot be told from guessing (0.5)"
    known = {k: v["auroc"] for k, v in test["labels"].items() if v["auroc"]["value"] is not None}
    weakest, best = (pick(known, key=lambda k: known[k]["value"]) for pick in (min, max))
    positives = test["labels"][weakest]["positives"]
    second = f"Weakest is {weakest}, "
    second += _with_interval(known[weakest], f"positive images: {positives:,}")
    second += f". Best is {best}, {_with_interval(known[best])}." if best != weakest else "."
    return [f"{first}.", second, facts["published"]["sentence"]]


def _with_interval(estimate: Facts, more: str = "") -> str:
    ends = estimate["patient_interval"]
    known = "no interval" if ends is None else f"95 % {ends[0]:.3f} to {ends[1]:.3f}"
    known += ", exact by the number of patients" if estimate.get("exact") else ""
    return f"{estimate['value']:.3f} ({'; '.join(filter(None, (known, more)))})"


def warnings(facts: Facts) -> list[str]:
    """What makes the figure worth less than it looks."""
    test, leaked = facts["test"], facts["split"]["leaked_patients"]
    found = []
    if leaked:
        found.append(
            f"The split leaks: {leaked:,} patients have images in more than one part, so the test "
            "figures flatter."
        )
    if test["patients"] is None or test.get("patients_known") is False:
        found.append(
            "Patients are not known, so each image counts as its own: the split may leak, and the "
            "intervals are too narrow."
        )
    if facts["training"]["epochs"] and facts["training"]["best_epoch"] is None:
        found.append(
            "Validation AUROC was undefined in every epoch: the checkpoint is of the last one, not "
            "of the best."
        )
    if facts.get("explain_missing"):
        found.append(f"Where it looks is not shown: {facts['explain_missing']}.")
    if facts["reproduce"]["data"]["name"] == "phantom":  # the title may say more
        found.append("The images are synthetic: these figures say nothing about patients.")
    return found


def published_facts(evaluation: Facts, reason: str) -> dict[str, Any]:
    """Published rows that may stand beside the run, and those that may not.

    Args:
        evaluation: of the test set; its "published" are the rows that may.
        reason: why none may, "" if some may.
    """
    mean = evaluation["mean"]["auroc"]["value"]
    rows = evaluation["published"]
    shown = {row["work"] for row in rows}
    everything = published()
    beside = [row for row in everything if row.work in shown]
    if reason or mean is None:
        sentence = f"No published result can stand beside it: {reason or 'it has no mean'}."
    else:
        text = place_among(mean, beside)
        sentence = f"{text[0].upper()}{text[1:]}."
    of_nih = evaluation["data"] == "nih"
    return {
        "sentence": sentence,
        "ranked": bool(beside) and beside[0].split == "official",
        "rows": rows,
        "elsewhere": [
            {"work": row.work, "year": row.year, "split": row.split, "mean": row.mean}
            | {"primary": row.primary, "note": row.note}
            for row in everything
            if of_nih and row.work not in shown
        ],
    }


def unknown(facts: Facts) -> list[str]:
    """What the files do not tell, one sentence each."""
    labels = facts["test"]["labels"]
    found = [
        f"{label}: AUROC is undefined, {each['undefined']}."
        for label, each in labels.items()
        if each["undefined"]
    ]
    defined = {label: each for label, each in labels.items() if not each["undefined"]}
    behind = {label: each["positive_patients"] for label, each in defined.items()}
    few = {label: count for label, count in behind.items() if count < FEW_PATIENTS}
    rough = {
        label: behind[label]
        for label, each in defined.items()
        if each["auroc"]["patient_interval"] is None
    }
    blank = {k: facts["test"]["images"] - each["known"] for k, each in labels.items()}
    found += _listed(f"Fewer than {FEW_PATIENTS} positive patients, so intervals are rough", few)
    found += _listed("No interval, since the positives are of too few patients", rough)
    found += _listed("Test images whose target is unknown and left out", _positive(blank))
    found += _listed("No operating point", facts["points"]["without"])
    found += _listed("Calibration", facts["points"]["doubts"])
    found += _about_groups(facts)
    found += [] if facts["audit"] else [f"The split was not audited: {facts['audit_missing']}."]
    found += [str(note) for note in (facts["audit"] or {}).get("notes", [])]
    return found + _always(facts)


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}


def _listed(text: str, names: Mapping[str, object]) -> list[str]:
    """A sentence and what it is about, with a value each; none if that is nothing."""
    if not names:
        return []
    if len(names) > 1 and len(set(names.values())) == 1:  # all for one reason
        return [f"{text} ({next(iter(names.values()))}): {', '.join(names)}."]
    return [f"{text}: {', '.join(f'{name} ({value})' for name, value in names.items())}."]


def _about_groups(facts: Facts) -> list[str]:
    """Groups too small to judge, and images of no known group."""
    rows = facts["subgroups"]["rows"]
    images: Counter[str] = Counter()
    for row in rows:
        images[row["dimension"]] += row["images"]
    total = facts["test"]["images"]
    blank = _positive({name: total - images[name] for name in ("sex", "age", "view", "follow-up")})
    few = sum(bool(row["note"]) for row in rows)
    found = _listed(f"Test images (of {total:,}) whose group is unknown", blank)
    if few:
        found.append(
            f"{few} of {len(rows)} subgroups have too few positives or negatives of every label "
            "for a figure: nothing is known of the model there."
        )
    return found


def _always(facts: Facts) -> list[str]:
    """What no run of this kind can tell."""
    best, epochs = facts["training"]["best_epoch"], facts["training"]["epochs"]
    chosen = f" The checkpoint, epoch {best} of {epochs}, was chosen on validation." if best else ""
    calibrated = facts["points"]["calibration"]
    found = [
        f"The test set comes from the same data set as the training set ({facts['data']}): this "
        "is no external validation.",
        f"This is one training run (seed {facts['reproduce']['seed']}): how much another seed "
        f"would change is not known.{chosen}",
        "Near-duplicate images under different ids were not looked for.",
        "For research. Not a medical device: nothing here says what a use on patients would do.",
    ]
    if calibrated:
        text = (
            f"Calibrated scores ({calibrated}) are probabilities at validation's prevalence only."
        )
        found.insert(2, text)
    if facts["reproduce"]["data"]["name"] != "phantom":
        found.insert(2, "Labels are taken as they are: how many are wrong is not known.")
    return found
