"""What is pushed to a stand-in of the hub is the run's model, and nothing of its patients."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from unittest.mock import Mock

import httpx2
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from running import xray
from safetensors.torch import save as to_bytes
from toy import save_net, toy_net

from xray_lightning import XrayNet, load_classifier, push_checkpoint
from xray_lightning.checkpoint import load_checkpoint, store_gate
from xray_lightning.cli.settings import find_checkpoints
from xray_lightning.errors import CheckpointError, ConfigError, OutputError
from xray_lightning.hub import push_files
from xray_lightning.models.gate import fit_gate

pytestmark = pytest.mark.filterwarnings("ignore:Use .content=")  # of the hub's own client
NET, TOKEN = "hf://me/net", "hf_standin"
OURS = {"README.md": b"library_name: xray_lightning", "best.ckpt": b"\x80"}
THEIRS = {"README.md": b"library_name: timm", "model.safetensors": to_bytes({"a": torch.ones(2)})}


class Hub:
    """As much of the hub as pushing and fetching call: repositories, and every byte that came."""

    def __init__(self):
        self.repos = {"me/open": {"0" * 40: OURS}, "me/other": {"0" * 40: THEIRS}}
        self.private, self.blobs, self.received = set(), {}, []

    def answer(self, request):
        self.received.append(request.read())
        path, allowed = request.url.path, TOKEN in request.headers.get("Authorization", "")
        if request.method == "PUT":
            self.blobs[path[1:]] = request.content
            return httpx2.Response(200)
        if request.method != "POST":
            return self.read(path, allowed)
        assert allowed
        return self.write(path, *map(json.loads, request.content.splitlines()))

    def read(self, path, allowed):
        form = r"(?:/api/models)?/([^/]+/[^/]+)(?:/(?:revision|resolve)/([^/]+))?(?:/(.+))?"
        repo, commit, name = re.fullmatch(form, path).groups()
        commits = self.repos.get(repo, {}) if allowed or repo not in self.private else {}
        commit = [None, *commits][-1] if commit in (None, "main") else commit
        files = commits.get(commit, {})
        lacks = "Entry" if commit in commits else "Revision" if commits else "Repo"
        if lacks != "Entry" or name not in (*files, None):
            return httpx2.Response(404, headers={"X-Error-Code": f"{lacks}NotFound"})
        if name:
            facts = {"ETag": hashlib.sha256(files[name]).hexdigest(), "X-Repo-Commit": commit}
            return httpx2.Response(200, content=files[name], headers=facts)
        facts = {"id": repo, "sha": commit, "private": repo in self.private}
        facts |= {"siblings": [{"rfilename": file} for file in files]}
        named = re.search(r"library_name: (\w+)", files.get("README.md", b"").decode())
        return httpx2.Response(200, json=facts | {"library_name": named and named[1]})

    def write(self, path, first, *rest):
        if path == "/api/repos/create":
            repo = f"{first['organization']}/{first['name']}"
            code = 409 if repo in self.repos else 200
            self.private |= {repo} if (code, first["visibility"]) == (200, "private") else set()
            self.repos.setdefault(repo, {"0" * 40: {}})
            return httpx2.Response(code, json={"url": f"http://hub/{repo}"})
        if path.endswith("/commit/main"):
            commits = self.repos[repo := "/".join(path.split("/")[3:5])]
            sent = [(line["key"] == "file", line["value"]) for line in rest]
            new = {own["path"]: base64.b64decode(own["content"]) for file, own in sent if file}
            self.received += new.values()
            new |= {own["path"]: self.blobs[own["oid"]] for file, own in sent if not file}
            sha = hashlib.sha1(bytes(len(commits))).hexdigest()
            commits[sha] = [*commits.values()][-1] | new
            first = {"commitUrl": f"http://hub/{repo}/commit/{sha}", "commitOid": sha}
        for file in first.get("files", []):  # before an upload; of LFS "objects"
            kind = "lfs" if file["path"].endswith(".safetensors") else "regular"
            file |= {"uploadMode": kind, "shouldIgnore": False}
        for blob in first.get("objects", []):
            blob["actions"] = {"upload": {"href": f"http://store/{blob['oid']}"}}
        return httpx2.Response(200, json=first)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The only hub there is, with a token for it."""
    hub = Hub()
    monkeypatch.setattr("httpx2.HTTPTransport.handle_request", lambda _, sent: hub.answer(sent))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_DISABLE_XET"):
        monkeypatch.setattr(huggingface_hub.constants, name, str(tmp_path / name))
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's attempts
    monkeypatch.chdir(tmp_path)
    huggingface_hub.utils.disable_progress_bars()
    return hub


@pytest.fixture(scope="module")
def run(made_run, tmp_path_factory):
    """The finished run, its checkpoint with gate, patients, settings and split."""
    run = shutil.copytree(made_run, tmp_path_factory.mktemp("whole") / "run")
    names = ("environment", "evaluation", "metrics")
    environment, evaluation, metrics = (json.loads((run / f"{n}.json").read_text()) for n in names)
    (best := run / "checkpoints" / "best.ckpt").parent.mkdir()
    own = {"data": {"root": "/secret/ward"}, "split": {}, "trainer": {}, "tta": "flip"}
    net = toy_net([*evaluation["labels"]]).eval()
    save_net(net, best, points=evaluation["operating_points"], **own)
    films = torch.rand(20, 1, 32, 32)
    store_gate(best, fit_gate(net, films, films, youngest=17.03, views=("PA",)))
    keys = [hashlib.md5(bytes(patient)).hexdigest() for patient in range(40)]
    patients = {"population": "phantom-0", "patients": {"train": keys[:30], "val": keys[30:]}}
    del environment["split"]["parts"]
    (raw := torch.load(best))["xray_lightning"]["split"] = environment["split"] | patients
    torch.save(raw, best)
    for part in (evaluation, metrics["val"], metrics["test"]):
        part["weights_sha256"] = load_checkpoint(best).weights_sha256
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run


@pytest.fixture
def place(hub, run):
    """Of the run, once it is pushed."""
    place, seen = xray("push", run, "me/net").split(", ")
    assert seen == "private\n"
    return place


def test_every_door_opens_what_was_pushed(hub, run, place, write_dicom, monkeypatch) -> None:
    commit, files = [*hub.repos["me/net"].items()][-1]
    assert place == f"{NET}@{commit}"
    assert {*files} == {"model.safetensors", "config.json", "README.md"}
    film = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    wanted = load_classifier(run / "checkpoints" / "best.ckpt", device="cpu")(film)
    for name in (NET, Path(NET), f"{NET}@main", place, Path(place), run):
        found = load_classifier(name, device="cpu")(film)
        np.testing.assert_array_equal(found.scores, wanted.scores)
        np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
        assert found.gate == wanted.gate != (None,)
    write_dicom(Path("a.dcm"), film)
    assert f"note: {place}" in xray("predict", NET, "a.dcm", "--out", "new", "device=cpu")
    assert json.loads(Path("new/model.json").read_text())["checkpoint_file"] == place
    assert find_checkpoints([NET]) == [load_checkpoint(NET).path]
    labels = load_checkpoint(NET).description.labels
    assert place in XrayNet(labels, "test_resnet", image_size=32, weights=NET).load_report
    xray("export", NET, "format=safetensors", "--out", "m.safetensors")
    monkeypatch.setattr("xray_lightning.serve", served := Mock())
    xray("serve", NET)
    assert [*served.call_args.args[0]] == [f"net@{commit}"]


@pytest.mark.slow
def test_evaluate_needs_data_and_records_the_commit(place) -> None:
    assert "holds no configuration: name data=" in xray("evaluate", NET, code=2)
    data = ["data=phantom", "data.patients=20", "data.size=32", "images=all", "draws=20"]
    said = xray("evaluate", NET, *data, "trainer=cpu", "threads=1", "workers=0", "--out", "new")
    assert f"{place} on phantom, split all images" in said
    assert "are not those of the training run [unknown]" in said
    told = json.loads(Path("new/evaluation.json").read_text())
    assert (told["checkpoint"], told["tta"]) == (place, "flip")
    assert "not at hand" in xray("evaluate", NET, *data, "overlap=exclude", code=2)


def test_nothing_of_the_patients_leaves(hub, run, place) -> None:
    text = "".join((run / f"{n}.json").read_text() for n in ("environment", "metrics"))
    text += json.dumps(load_checkpoint(run / "checkpoints/best.ckpt").description.split)
    secrets = set(re.findall(r"\b[0-9a-f]{16,64}\b", text)) | {"/secret", str(run), "17.03"}
    secrets -= set(re.findall(r'weights_sha256": "(\w+)', text))
    for table in (pd.read_csv(run / f"predictions_{n}.csv", dtype=str) for n in ("val", "test")):
        secrets |= {*table["image"], *table["patient"], *table["score_Mass"]}
    sent = b"\n".join(hub.received)
    assert len(secrets) > 300
    assert [secret for secret in secrets if secret.encode() in sent] == []
    assert b"Atelectasis" in sent, "the search can find"
    assert load_checkpoint(place).gate.youngest == 10, "a decade, not a patient's age"


def test_what_cannot_be_fetched(hub, place) -> None:
    def refuse(match, *names):
        for name in names:
            with pytest.raises(CheckpointError, match=match):
                load_checkpoint(name)

    hub.repos["me/net"]["1" * 40] = OURS  # somebody took the weights out
    refuse(r"holds no model\.safetensors, and a pickle is never opened", "hf://me/open", NET)
    refuse(r"hf://net: write hf://OWNER/NAME", "hf://net")
    refuse("me/none: no such repository, or the token", "hf://me/none")
    refuse("the repository has no such revision", "hf://me/open@v2")
    refuse("was not written by xray_lightning", "hf://me/other")
    kept = load_checkpoint(place).weights_sha256
    hub.answer = Mock(side_effect=httpx2.ConnectError("nobody is there"))
    assert load_checkpoint(place).weights_sha256 == kept
    refuse(r"hf://me/net: the hub cannot be reached", NET, f"{NET}@{'2' * 40}")
    with pytest.raises(OutputError, match="cannot be reached"):
        push_files("me/net", {"a": b""}, False)


def test_what_is_not_pushed(hub, run, monkeypatch) -> None:
    best = run / "checkpoints" / "best.ckpt"
    card = load_checkpoint(best).weights_sha256
    for repo, text, match in (
        ("net", card, "'net' is no repository of the hub: write OWNER/NAME"),
        ("me/net@main", card, "'me/net@main' is no repository"),
        ("me/other", card, "me/other holds files of another program, such as README.md"),
        ("me/open", card, "me/open is public: change that, or public=true"),
        ("me/net", "none", "the card is of other weights than .*best.ckpt"),
    ):
        with pytest.raises(ConfigError, match=match):
            push_checkpoint(best, repo, text)
    assert [*hub.repos] == ["me/open", "me/other"]
    told = json.loads(xray("push", run, "me/open", "public=true", "--json"))
    assert told["place"].startswith("hf://me/open@")
    hub.answer = lambda _: httpx2.Response(403)
    with pytest.raises(OutputError, match=r"hf://me/net: .*403 Forbidden"):
        push_checkpoint(best, "me/net", card)
    monkeypatch.delenv("HF_TOKEN")
    assert "no token to push to me/net: set HF_TOKEN" in xray("push", run, "me/net", code=2)
