"""``xray data``, ``cache``, ``labels``, ``probe``: what a folder holds, and shows."""

from xray_lightning.cli.config import compose_settings, make, split_sets
from xray_lightning.cli.request import Request
from xray_lightning.cli.settings import require_settings
from xray_lightning.data.partition import split_source
from xray_lightning.data.source import Source, readable_records, usage_notes
from xray_lightning.data.summary import summarise_data, tabulate_labels
from xray_lightning.data.vocabulary import list_sets
from xray_lightning.errors import ConfigError
from xray_lightning.progress import show_progress
from xray_lightning.report.page import say
from xray_lightning.report.terminal import labels_tables, tabulate
from xray_lightning.shards import Shard


def cache(request: Request) -> None:
    """Decode a data set ahead of training: xray cache data=nih data.root=DIR image_size=256."""
    from xray_lightning.data.cache import open_cache  # the decoders

    own, config = request.own, compose_settings(request.rest, request.own)
    source: Source = make(config.data)
    records, notes = readable_records(source), usage_notes(source)
    size, root, shard = config.image_size, config.cache_dir, Shard.parse(str(own["shard"]))
    if folder := str(own["litdata"]):
        if own["shard"]:
            raise ConfigError("litdata= takes all images: give it without shard=")
        from xray_lightning.cli.build import data_from  # torch

        data_from(config, source).write_litdata(folder)
        notes = [*notes, f"LitData shards are in {folder}/train, val and test"]
    opened = open_cache(source, records, size=size, root=root, shard=shard)
    count = len(opened.images)
    with show_progress("comparing checksums") as report:
        for row in range(count):
            opened.square(row)
            report(row + 1, count)
    facts = {"path": str(opened.path), "images": count, "image_size": size}
    facts |= {"bytes": count * size**2, "parts": len(opened.parts), "notes": notes}
    request.present(facts, *say("cached", facts))


def data(request: Request) -> None:
    """What is in a folder: counts per label and subset, images on disk, problems."""
    config = compose_settings(request.rest)
    source: Source = make(config.data)
    split = split_source(source, make(config.split), source.records)
    summary, path = summarise_data(source, split), request.keep("data.json")
    lines = tabulate("counts", summary), *say("data", summary)
    request.present(summary.to_json(), *lines, path=path)


def labels(request: Request) -> None:
    """How each data set calls a finding: xray labels data.sets=[nih,chexpert]; none: all."""
    settings, rest = split_sets(request.rest)
    if not settings:
        compose_settings(rest)  # refuses what no setting has
    sources: dict[str, Source | None] = {}
    for name, own in settings.items():
        node = compose_settings([*rest, *own]).data
        unset = len(own) == 1 and "???" in dict(node.items_ex(resolve=False)).values()
        sources[name] = None if unset else make(node)  # nothing says where it is
    table = tabulate_labels(sources or dict.fromkeys(list_sets()))
    notes = (f"note: {name}: {note}" for name, s in sources.items() if s for note in s.notes)
    request.present(table.to_json(), *labels_tables(table), *notes)


def probe(request: Request) -> None:
    """How good is a backbone before training? xray probe model=rad_dino data=nih data.root=DIR."""
    own, config = request.own, compose_settings(request.rest, request.own)
    require_settings(config)
    source: Source = make(config.data)
    path = request.keep("probe.json")
    from xray_lightning.cli.build import data_from, prepare_process  # torch, after paths
    from xray_lightning.evaluation.probe import probe_backbone
    from xray_lightning.metrics.estimates import FEW_PATIENTS
    from xray_lightning.models.backbones import require_sizes
    from xray_lightning.training.environment import wants_gpu

    data = data_from(config, source, workers=prepare_process(config)["workers"])
    device = "cuda" if wants_gpu(config.trainer.accelerator) else "cpu"
    net = make(config.model, labels=data.labels).to(device)
    require_sizes(net, config.image_size, config.batch_size)
    with show_progress("images through the backbone", unit="images") as report:
        seed = own["bootstrap_seed"]
        result = probe_backbone(net, data, draws=own["draws"], seed=seed, progress=report)
    lines = tabulate("probes", result), *say("probe", result, FEW_PATIENTS)
    request.present(result.to_json(), *lines, path=path)
