"""Makes a run folder of trained weights, such as a released checkpoint of UniMatch; trains nothing.

unimatch import pascal_92_75.2.pth --config RUN.yaml --out runs/released

RUN.yaml describes the network that the file holds, its task and data. `evaluate`, `predict`, `compare` and
`plan` take the folder like any other. A training starts from the file with model.weights=file:FILE (the whole
network) or model.encoder.weights=file:FILE (the encoder's). A file of UniMatch V2 holds a student (model) and
its moving average (model_ema): a method with a teacher takes both; FILE#model and FILE#model_ema name one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from unimatch import config as config_io
from unimatch import shipped
from unimatch.codecs.bands import Bands
from unimatch.codecs.prepared import Preparation
from unimatch.engine import checkpoint
from unimatch.engine.build import build_evaluator, build_method, build_network, build_task
from unimatch.engine.entry import Parser, run_entry
from unimatch.engine.evaluate import report
from unimatch.engine.log import RunLog
from unimatch.engine.options import add_overrides
from unimatch.engine.run_config import RunConfig
from unimatch.engine.run_data import open_shards, training_samples
from unimatch.engine.run_folder import IMPORTED, start_run_folder
from unimatch.engine.runtime import Runtime
from unimatch.engine.selection import select
from unimatch.errors import UserError
from unimatch.models import weight_file
from unimatch.models.weight_file import split_source
from unimatch.models.weights import load_segmentor
from unimatch.packing.classes import read_classes
from unimatch.packing.recipe import Recipe
from unimatch.taxonomy import Taxonomy

STEP = 0  # of the checkpoint: how long it was trained elsewhere is not known


def main(args: list[str]) -> None:
    parser = Parser(
        prog="unimatch import", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help=".pth or .safetensors, with the released names or ours")
    parser.add_argument("--config", required=True, metavar="RUN.yaml", help="as of unimatch train")
    add_overrides(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the run folder to make")
    parser.add_argument(
        "--classes",
        metavar="RECIPE",
        help="the recipe that names the classes, where the data's shards are not at hand (to predict only)",
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="evaluate on data.val and keep the figures, for compare"
    )
    options = parser.parse_args(args)
    if options.evaluate and options.classes:
        parser.error("--evaluate needs the shards: leave --classes out")
    if not split_source(options.file)[0].is_file():
        raise UserError(f"{split_source(options.file)[0]} is not a file")
    # Parts of configurations lack the folder, and nothing else.
    config = config_io.load(options.config, RunConfig, [*options.overrides, f"out={options.out}"])
    if options.evaluate and config.data.val is None:
        raise UserError("--evaluate: the configuration has no data.val")
    config.model = config.model.untrained()
    runtime = Runtime(config.precision)
    if runtime.world > 1:
        raise UserError("importing takes one process: start it with python, not with a launcher")
    print(import_weights(config, options.file, options.classes, options.evaluate, runtime))
    runtime.close()


def import_weights(config: RunConfig, file: str, recipe: str | None, evaluate: bool, runtime: Runtime) -> str:
    """Writes the run folder `config.out`; what to tell. UserError: another network, or there is a run."""
    if (config.out / "config.yaml").exists():
        raise UserError(f"{config.out} already holds a run: name another folder with --out, or remove it")
    taxonomy, packed, bands = _known(config, recipe)
    chosen = None
    if evaluate:  # before anything is written: what cannot be evaluated leaves no folder behind
        assert config.data.val is not None
        chosen = select(open_shards(config.data.shards, config.data.cache), config.data.val)
    net = build_network(config, taxonomy, runtime, bands)
    task = build_task(config, taxonomy, net, bands)
    nets = {checkpoint.NETWORK: net, **build_method(config, task, net).eval_nets(net)}
    encoder, head = config.model.encoder.name, config.model.head.name
    loaded = {
        name: load_segmentor(nets[name], source, encoder, head)
        for name, source in _sources(file, list(nets), head, config.method.name).items()
    }
    start_run_folder(config, resume=False)
    state = checkpoint.TrainerState(STEP, task.headline, None, None, taxonomy.to_json(), {}, 1)
    state.bands = None if bands is None else bands.to_json()
    state.prepared = None if packed is None else Preparation.of(packed).to_json()
    networks = {name: one.state_dict() for name, one in nets.items()}
    folder = checkpoint.save_weights(config.out, state, networks)
    told = {"file": str(split_source(file)[0].resolve()), "loaded": loaded}
    (config.out / IMPORTED).write_text(json.dumps(told, indent=1) + "\n")
    lines = [f"{folder}: {name} is {source}" for name, source in loaded.items()]
    if chosen is not None:
        settings = config.evaluation
        figures = build_evaluator(
            chosen, task, runtime, settings.batch, settings.workers, config.data.timeout_s
        )(nets[list(nets)[-1]])
        with RunLog(config.out, True, STEP, STEP) as log:
            log.record("eval", STEP, {"network": list(nets)[-1], **figures})
        lines += [f"on {config.data.val}:", *report(figures, task)]
    return "\n".join(lines)


def _sources(file: str, nets: list[str], head: str, method: str) -> dict[str, str]:
    """Where each network of the run comes from. UserError: a teacher is wanted and only a student is there.

    A file of one network, as the V1 code wrote them, and one that is named stand for all.
    """
    path, named = split_source(file)
    held = weight_file.networks_of(path)
    if len(nets) == 1 or named is not None or not held:
        return dict.fromkeys(nets, file)
    if len(held) == 2:
        of = {
            name: weight_file.STUDENT if name == checkpoint.NETWORK else weight_file.TEACHER for name in nets
        }
        return {name: f"{path}#{network}" for name, network in of.items()}
    if held == [weight_file.STUDENT] and head == "dpt":
        raise UserError(
            f"{path} holds a student alone ({weight_file.STUDENT}, no {weight_file.TEACHER}), but method "
            f"{method} is evaluated by its teacher, as the published figures of UniMatch V2 are: set "
            f"method.name=supervised, or name {path}#{weight_file.STUDENT} to let it stand for both"
        )
    return dict.fromkeys(nets, file)


def _known(config: RunConfig, recipe: str | None) -> tuple[Taxonomy, dict[str, Any] | None, Bands | None]:
    """The classes of the run's shards, or of a recipe; the settings of the recipe, if they are known; and the
    bands of the images, if they are no ordinary pictures.
    """
    if recipe is None:
        try:
            shards = open_shards(config.data.shards, config.data.cache)
            bands = shards.bands()
            if bands is not None:
                bands = shards.bands(training_samples(config, shards).labeled.rows)
            return shards.taxonomy, shards.recipe, bands
        except (UserError, OSError) as error:
            raise UserError(
                f"{error}\nThe classes come from the shards: set data.shards, or, only to predict, name a "
                "recipe with these classes: --classes pascal"
            ) from None
    path = shipped.found(recipe, "recipes")
    if not path.is_file():
        raise UserError(f"--classes {recipe}: no such file, nor a recipe of unimatch")
    settings = config_io.load(path, Recipe)
    if settings.classes_file is not None:
        raise UserError(
            f"--classes {recipe}: this recipe reads the classes from {settings.classes_file}, a file of the "
            "data: pack the data, and leave --classes out"
        )
    return read_classes(settings, path.parent)[0], config_io.plain(settings), None


if __name__ == "__main__":
    sys.exit(run_entry(main))
