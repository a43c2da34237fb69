"""Shards on S3, against a server that implements it, and a training from a URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec.config
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import tiny_run_text
from tests.support.http_folder import HttpFolder
from tests.support.processes import MEASURED
from tests.support.tiny_set import write_tiny
from unimatch import config as config_io
from unimatch import evaluate, train
from unimatch.engine.log import read_metrics
from unimatch.engine.run_config import RunConfig
from unimatch.errors import ConfigError, DataError
from unimatch.shardset import patience, remote
from unimatch.shardset.archive import ShardSet
from unimatch.shardset.cache import Cache

KEYS = {"aws_access_key_id": "me", "aws_secret_access_key": "hunter2"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> dict[str, Any]:
    """What a user would write into ~/.config/fsspec/s3.json."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.005)
    monkeypatch.setattr(patience, "TRIES", 2)
    values = {"endpoint_url": endpoint, "key": KEYS["aws_access_key_id"], "secret": "hunter2"}
    monkeypatch.setitem(fsspec.config.conf, "s3", values)
    return values


def upload(endpoint: str, root: Path, bucket: str, prefix: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **KEYS)
    client.create_bucket(Bucket=bucket)
    for path in root.iterdir():
        client.upload_file(str(path), bucket, f"{prefix}/{path.name}")


def test_a_set_on_s3(
    tmp_path: Path, endpoint: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_tiny(tmp_path / "set")
    upload(endpoint, root, "data", "street scenes/v1")
    monkeypatch.setattr(remote, "RANGE_BYTES", 3000)
    here = ShardSet.open(root)
    there = ShardSet.open("s3://data/street scenes/v1/", cache=Cache(tmp_path / "cache"))
    assert [there.read(row) for row in range(len(there))] == [here.read(row) for row in range(len(here))]
    for url in ("s3://data/other", "s3://no-such-bucket/set"):
        with pytest.raises(DataError, match=rf"^{url}/index\.json: cannot be fetched: no such file"):
            ShardSet.open(url, cache=Cache(tmp_path / "cache"))
    settings |= {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)  # it has tries of its own
    with pytest.raises(
        DataError, match=r"^s3://data/x/index\.json: cannot be fetched, given up after 2 tries"
    ):
        ShardSet.open("s3://data/x", cache=Cache(tmp_path / "cache"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "gcs" in fsspec.registry:
        pytest.skip("gcsfs is installed")
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match=r"gs://b/x/index\.json: cannot be fetched: .*unimatch\[gs\]"):
            ShardSet.open("gs://b/x", cache=Cache(tmp_path))


def trained(path: Path, shards: str, split: Path, *more: str) -> list[dict[str, Any]]:
    """What a run of 3 steps logs."""
    run = path.with_suffix("")
    path.write_text(tiny_run_text(run, shards, split))
    short = ("schedule.steps=3", "log.pictures_every_steps=0", "data.workers=2", *more)
    train.main(["--config", str(path), *(part for setting in short for part in ("--set", setting))])
    lines = [*read_metrics(run, "train"), *read_metrics(run, "eval")]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


def test_training_from_a_url_is_training_from_the_folder(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.005)
    server = HttpFolder(tiny_shards)
    try:
        for path in tiny_shards.iterdir():
            server.faults[path.name] = ["drop"]
        cache = ("data.cache.folder=" + str(tmp_path / "cache"), "data.cache.size_gb=0.01")
        split = tiny_shards.parent / "split"
        there = trained(tmp_path / "there.yaml", server.url, split, *cache)
        assert there == trained(tmp_path / "here.yaml", str(tiny_shards), split)
        assert len(there) == 4 and len(server.requests) > 3
        capsys.readouterr()
        figures = tmp_path / "figures.json"
        evaluate.main(
            [str(tmp_path / "here"), "--shards", server.url, "--json", str(figures), "--workers", "0"]
        )
        assert json.loads(figures.read_text())["miou"] == there[-1]["miou"]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.shards=https://me:hunter2@host/set", r"shards must not hold a user or password"),
        ("data.shards=s3://me:hunter2@host/set", r"shards must not hold a user or password"),
        ("data.shards=''", r"data: shards must be a path .* or a URL"),
        ("data.shards=~/set", r"data: shards must be a path with the home folder written in full"),
        ("data.cache.size_gb=0", r"data\.cache: size_gb must be above 0, found 0"),
        ("data.cache.size=9", r"data\.cache\.size: unknown key.*size_gb"),
    ],
)
def test_bad_settings(tiny_run: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config_io.load(tiny_run, RunConfig, [setting])
    assert "hunter2" not in str(error.value)
