"""Do maps change when what the network learned is taken away?

Adebayo et al., Sanity Checks for Saliency Maps (NeurIPS 2018), sections 3 and 4. A map that stays
is a picture of the image, not of the network.
"""

from collections.abc import Sequence

import numpy as np
from torch import nn

from xray_lightning.errors import ConfigError
from xray_lightning.metrics.clusters import mean_of_defined
from xray_lightning.saliency.layers import Stage, batch_norms, calibrate, reset, stages
from xray_lightning.saliency.similarity import MEASURES, Prepared, alike, prepared, rows_of
from xray_lightning.saliency.study import Study, copied
from xray_lightning.saliency.verdicts import Facts, Sample, of_measures, similarity_facts

FEWEST_NETWORKS = 4  # of which a bootstrap draws the same one only in 2 % of cases


def randomisation_facts(net: nn.Module, study: Study, original: Prepared, networks: int) -> Facts:
    """Model randomisation, cascading from the head to the input.

    Each stage (:func:`~.layers.stages`) is reset (:func:`~.layers.reset`) and stays so; batch norms
    that were reset take their statistics from the study's images (:func:`~.layers.calibrate`).
    One network goes through the cascade; for the verdict, ``networks`` of them are wholly random.

    Rule, for each measure: "passes" if the similarity of the random networks' maps to the
    original's is low by :mod:`~.verdicts` and is not shown to exceed that between two random
    networks; "fails" if it is high; else "undecided". Networks and patients are resampled.
    :func:`~.verdicts.together` makes one verdict.

    Args:
        net: left alone.
        study: N images; takes S + R - 1 maps of each for S stages and R networks, and as many
            scoreless passes where there are batch norms.
        original: its maps on them.
        networks: R.

    Raises:
        ConfigError: fewer than four networks.
    """
    if networks < FEWEST_NETWORKS:
        raise ConfigError(f"networks must be at least {FEWEST_NETWORKS}, got {networks}")
    parts = stages(net)
    generator = np.random.default_rng(study.sample.seed)
    cascade = randomised_maps(net, study, [(part,) for part in parts], generator)
    random = [cascade[-1]]
    for _ in range(networks - 1):
        random += randomised_maps(net, study, [parts], generator)
    measures = _against_random(original, random, study.sample)
    steps = [alike(original, maps) for maps in cascade]
    return {
        **of_measures(measures),
        "networks": networks,
        "stages": [
            {"name": part.name, "layers": len(part.layers)}
            | {name: study.sample.estimate(step[name]).facts() for name in MEASURES}
            for part, step in zip(parts, steps, strict=True)
        ],
    }


def randomised_maps(
    net: nn.Module, study: Study, steps: Sequence[Sequence[Stage]], generator: np.random.Generator
) -> list[Prepared]:
    """Maps after each step, at which these stages become random beside those before."""
    random, device = copied(net), next(net.parameters()).device
    done: list[str] = []
    found = []
    for step in steps:
        layers = [layer for stage in step for layer in stage.layers]
        reset(random.cpu(), layers, generator)
        random.to(device)
        done += layers
        if batch_norms(random, done):
            calibrate(random, done, study.batches(random))
            study.advance(len(study.images))
        found.append(prepared(study.maps(random)))
    return found


def _against_random(original: Prepared, random: Sequence[Prepared], sample: Sample) -> Facts:
    """Facts of each measure, on (R, N) similarities."""
    partners = sample.partners
    similarity = [alike(original, maps) for maps in random]
    chance = [alike(original, rows_of(maps, partners)) for maps in random]
    pairs = {
        (one, two): alike(random[one], random[two])
        for one in range(len(random))
        for two in range(one)
    }

    def among(measure: str, network: int) -> np.ndarray:
        others = [found[measure] for pair, found in pairs.items() if network in pair]
        return mean_of_defined(np.stack(others))  # of one random network to the others, (N,)

    return {
        measure: similarity_facts(
            np.stack([each[measure] for each in similarity]),
            np.stack([each[measure] for each in chance]),
            sample,
            high=False,
            control=np.stack([among(measure, network) for network in range(len(random))]),
        )
        for measure in MEASURES
    }
