import re
from dataclasses import replace

import pytest

from unimatch import config as config_io
from unimatch.engine import preflight
from unimatch.engine.build import build_trainer
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_data
from unimatch.engine.run_folder import refuse_changes, start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.errors import ConfigError, UserError


def test_a_trainer_is_built_and_described(tiny_config):
    trainer, banner = build_trainer(tiny_config, open_data(tiny_config), Runtime(), resume=False)
    assert trainer.total_steps == 20 and trainer.steps_per_epoch == 34 // 4
    for part in ("4 labelled + 4 unlabelled", "6 labeled", "34 unlabeled", "10 val", "random initialisation"):
        assert part in banner


@pytest.mark.parametrize(("size_mb", "row"), [(1000, "kept decoded.* 6 of 6 labelled samples, "), (0, None)])
def test_what_is_kept_decoded_is_told_and_may_differ_between_hosts_and_parts_of_a_run(
    tiny_config, size_mb, row
):
    start_run_folder(tiny_config, resume=False)
    same = preflight._settings(tiny_config)
    tiny_config.data.decoded_mb = size_mb
    refuse_changes(tiny_config)
    assert preflight._settings(tiny_config) == same
    _, banner = build_trainer(tiny_config, open_data(tiny_config), Runtime(), resume=False)
    assert re.search(row, banner) if row else "kept decoded" not in banner


def test_training_and_evaluation_samples_must_differ(tiny_config):
    tiny_config.data.val = "train"
    with pytest.raises(UserError, match=r"samples are in data\.(un)?labeled and in data\.val"):
        build_trainer(tiny_config, open_data(tiny_config), Runtime(), resume=False)


def test_pairs_need_even_micro_batches(tiny_config):
    tiny_config.method = replace(
        tiny_config.method, config=replace(tiny_config.method.config, mix_partner="batch")
    )
    tiny_config.batch.unlabeled = 3
    with pytest.raises(UserError, match="mix_partner.*even number"):
        build_trainer(tiny_config, open_data(tiny_config), Runtime(), resume=False)


VIT = "model={encoder: {name: test_vit, weights: none}, head: {name: linear}}"


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("{views: {crop: 50}}", "task.views.crop is 50, but test_vit reads patches of 16 .* 48 or 64"),
        ("{views: {crop: 48}}", "task.evaluate.multiple_of is 1, but .* such as 16"),
        (
            "{views: {crop: 48}, evaluate: {mode: centre, window: 40}}",
            "task.evaluate.window is 40, .* 32 or 48",
        ),
        (
            "{views: {crop: 48}, evaluate: {mode: sliding}}",
            "task.evaluate.border is cut, .* set it to inside",
        ),
        ("{views: {crop: 48}, evaluate: {mode: sliding, border: inside}}", None),
        ("{views: {crop: 48}, evaluate: {multiple_of: 32}}", None),
    ],
)
def test_views_and_evaluation_must_divide_into_the_patches(tiny_run, task, told):
    text = tiny_run.read_text()
    start, end = text.index("model:"), text.index("optimizer:")
    tiny_run.write_text(f"{text[:start]}{VIT.replace('=', ': ', 1)}\nmethod: {{name: unimatch_v2}}\n"
                        f"task: {{name: natural, {task[1:]}\n{text[end:]}")  # fmt: skip
    config = config_io.load(tiny_run, RunConfig)
    if told is None:
        assert build_trainer(config, open_data(config), Runtime(), resume=False)
        return
    with pytest.raises(ConfigError, match=told):
        build_trainer(config, open_data(config), Runtime(), resume=False)
