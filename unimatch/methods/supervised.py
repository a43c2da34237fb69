"""The baseline: the supervised loss on labelled images, nothing else."""

from dataclasses import dataclass

from torch import Tensor, nn

from unimatch.data.sample import Batch
from unimatch.methods.base import METHODS, Logs, Method, Progress, ViewNeeds


@dataclass
class SupervisedConfig:
    """No settings.

    For a fair comparison its labelled batch is as large as both batches of the other methods together.
    """


@METHODS.register("supervised", SupervisedConfig)
class Supervised(Method):
    """L = L_x."""

    @property
    def views(self) -> ViewNeeds:
        return ViewNeeds(num_strong=0, partner=None, unlabeled=False)

    def step(self, net: nn.Module, batch: Batch, progress: Progress) -> tuple[Tensor, Logs]:
        return self.supervised_step(net, batch.labeled)
