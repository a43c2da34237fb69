"""What is trained: the published settings, and the same in miniature for a machine without a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

SGD = "{name: sgd, lr: 1e-4}"
ADAMW = "{name: adamw, lr: 5e-6, head_lr_multiplier: 40, weight_decay: 0.01}"


@dataclass(frozen=True)
class Case:
    """A network and a batch. Weights are random: figures of time and memory do not depend on them."""

    name: str
    encoder: str  # YAML of model.encoder, without weights
    head: str  # the same of model.head
    crop: int
    labeled: int
    unlabeled: int
    classes: int
    task: str = "natural"
    method: str = "unimatch"
    partner: str = "same"
    optimizer: str = SGD
    channels: int = 3
    multiple: int = 1  # of a patch, for evaluation

    def yaml(self, *, precision: str = "fp32", views: str = "cpu", recompute: bool = False) -> str:
        """A run's configuration. `views`: who makes the strong ones; medical slices know workers only."""
        device = "" if self.task == "medical" else f", device: {views}"
        evaluate = f"\n  evaluate: {{multiple_of: {self.multiple}}}" if self.multiple > 1 else ""
        return f"""
out: unused
data: {{shards: unused, labeled: unused, unlabeled: unused}}
batch: {{labeled: {self.labeled}, unlabeled: {self.unlabeled}}}
model:
  encoder: {{{self.encoder}, weights: none}}
  head: {{{self.head}}}
method: {{name: {self.method}, mix_partner: {self.partner}}}
task:
  name: {self.task}
  views: {{crop: {self.crop}{device}}}{evaluate}
optimizer: {self.optimizer}
schedule: {{steps: 1000000}}
precision: {precision}
activation_checkpointing: {str(recompute).lower()}
"""

    @property
    def images(self) -> int:
        """Of a step, as a person counts them: the views of an image are one."""
        return self.labeled + self.unlabeled


def _dpt(name: str, size: str) -> Case:
    return Case(
        name,
        f"name: vit_{size}_patch14_dinov2",
        "name: dpt",
        518,
        4,
        4,
        21,
        method="unimatch_v2",
        partner="batch",
        optimizer=ADAMW,
        multiple=14,
    )


R101 = Case("R101 at 321", "name: resnet101s", "name: deeplabv3plus", 321, 8, 8, 21)
R50 = Case("R50 at 321", "name: resnet50s", "name: deeplabv3plus", 321, 8, 8, 21)
CASES = {
    "r101-321": R101,
    "vit-b-518": _dpt("V2 DINOv2-B at 518", "base"),
    "r50-321": R50,
    "vit-s-518": _dpt("V2 DINOv2-S at 518", "small"),
    "r101-801": replace(R101, name="R101 at 801", crop=801, labeled=2, unlabeled=2, classes=19),
    "r50-801": replace(R50, name="R50 at 801", crop=801, labeled=2, unlabeled=2, classes=19),
    "change": replace(R50, name="change, R50 at 256", crop=256, classes=2, task="change"),
    "medical": Case(
        "medical, UNet at 256", "name: unet, in_channels: 1", "name: unet", 256, 12, 12, 4,
        task="medical", partner="shuffled", channels=1,
    ),
}  # fmt: skip
GOALS = ("r101-321", "vit-b-518")  # of which speed and memory are to be reached

TINY_ENCODERS = {"dpt": "name: test_vit", "unet": "name: unet, in_channels: 1"}


def miniature(case: Case) -> Case:
    """The same task, method and optimiser with a network and images that a CPU computes in no time."""
    if case.head == "name: unet":
        return replace(case, crop=32, labeled=2, unlabeled=2)
    if case.head == "name: dpt":
        return replace(
            case,
            encoder="name: test_vit",
            head="name: dpt, channels: 8",
            crop=32,
            labeled=2,
            unlabeled=2,
            multiple=16,
        )
    head = "name: deeplabv3plus, channels: 16, low_channels: 8, rates: [1, 2, 3]"
    return replace(case, encoder="name: test_efficientnet", head=head, crop=33, labeled=2, unlabeled=2)


def cases(rehearsal: bool) -> dict[str, Case]:
    """By short names, the most important first. In miniature most are alike: one of each kind is left."""
    if not rehearsal:
        return CASES
    return {key: miniature(CASES[key]) for key in ("r101-321", "vit-b-518", "change", "medical")}
