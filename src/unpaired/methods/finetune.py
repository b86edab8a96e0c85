"""Fine-tuned features: a pretrained classifier learns to tell the domains apart (Katzir et al., Cross-Domain Cascaded
Deep Translation, arXiv 1906.01526, appendix A.1.3), for ``--weights`` of the methods on its features.

All layers stay as they are but the deepest block and the fully connected ones; the last layer is new, with one output a
domain. The paper: VGG-19, 2 domains, 50 epochs, batches of 25, rate 0.01.

Legend: N batch, K domains, C channels, S side; images float [N, 3, S, S] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unpaired.batch import Batch, Pair, Side
from unpaired.config import MethodConfig
from unpaired.errors import ConfigError, nearest
from unpaired.methods.base import SGD, Method, Stage, Start, Update
from unpaired.networks.classifiers import Features
from unpaired.networks.convnets import kaiming_convolutions


class FinetuneConfig(MethodConfig):
    """Every number of the appendix, and those it leaves out."""

    network: str = "vgg19"
    """Classifier: ``vgg19`` or ``mobilenet_v1``."""
    weights: str = "pretrained"
    """``pretrained`` (found by name or downloaded), a file or folder with the weights, or ``random``."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate, constant."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of the gradient descent."""
    batch_size: Annotated[int, Field(ge=2)] = 25
    """Images in a step, of all domains together."""
    steps: Annotated[int, Field(ge=1)] = 5_080
    """Training steps: 50 epochs of 2,540 images in batches of 25."""


@dataclass(frozen=True)
class Recipe:
    """What is trained of a network."""

    last: str
    """Last feature layer, before the head."""
    trained: str
    """Feature layers whose names begin so are trained."""
    channels: int
    """Of that last layer."""
    hidden: int = 0
    """Numbers in each of the two fully connected layers before the new one, which are the classifier's own; 0: the new
    layer is linear in the mean over space."""


RECIPES = {
    "vgg19": Recipe("pool5", "conv5_", 512, hidden=4096),
    "mobilenet_v1": Recipe("stride32", "stride32", 1024),
}
"""By network. MobileNet's is ours: its last block and a linear layer."""


class Finetune(Method):
    """Tells its domains apart; translates nothing. Its shared file holds the feature layers alone."""

    Config: ClassVar[type[FinetuneConfig]] = FinetuneConfig
    training_only: ClassVar[tuple[str, ...]] = ("head",)
    reads: ClassVar[tuple[Side, ...]] = ("source",)
    domain_count: ClassVar[tuple[int, int | None]] = (2, None)

    def __init__(
        self, config: FinetuneConfig, domains: tuple[str, ...], *, image_size: int, classes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(config, domains, image_size=image_size, classes=classes)
        if config.network not in RECIPES:
            raise ConfigError(
                f"no recipe to fine-tune '{config.network}'.{nearest(config.network, RECIPES)} There are: "
                f"{', '.join(RECIPES)}."
            )
        self.recipe = recipe = RECIPES[config.network]
        self.features = Features(config.network, (recipe.last,))
        kaiming_convolutions(self.features)
        h = recipe.hidden
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(7 if h else 1), nn.Flatten()]
        if h:
            layers += [nn.Linear(recipe.channels * 49, h), nn.ReLU(), nn.Dropout()]
            layers += [nn.Linear(h, h), nn.ReLU(), nn.Dropout()]
        new = nn.Linear(h or recipe.channels, len(domains))
        nn.init.normal_(new.weight, 0.0, 0.01)
        nn.init.zeros_(new.bias)
        self.head = nn.Sequential(*layers, new)

    def prepare(self, start: Start) -> None:
        """Pretrained weights for all but the new layer. Raises WeightsError."""
        c: FinetuneConfig = self.config
        if c.weights == "random" or start.begun_with is not None:
            return
        name, state = start.classifier(c.network, c.weights)
        self.features.fill(name, state)
        if self.recipe.hidden and "classifier.0.weight" in state:  # fine-tuned features come without them
            for layer in (0, 3):  # in torchvision's classifier; the head begins with two layers more
                linear = self.head.get_submodule(str(layer + 2))
                linear.load_state_dict({leaf: state[f"classifier.{layer}.{leaf}"] for leaf in ("weight", "bias")})

    @property
    def directions(self) -> Sequence[Pair]:
        """None."""
        return ()

    @property
    def pairs(self) -> Sequence[Pair]:
        """Each domain onto itself, so that all come equally often."""
        return tuple((d, d) for d in self.domains)

    def stages(self) -> tuple[Stage, ...]:
        c: FinetuneConfig = self.config
        deepest = (layer for name, layer in self.features.layers.items() if name.startswith(self.recipe.trained))
        players = tuple(layer for layer in deepest if any(True for _ in layer.parameters()))
        update = Update("classifier", self.loss, (*players, self.head), SGD(c.lr, c.momentum))
        return (Stage("finetune", c.steps, (update,), c.batch_size),)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the domain."""
        self.features.eval()  # batch norms keep their statistics, in the layers that are trained, too
        logits = self.head(self.features(batch.source)[0]).float()  # [N, K]
        self.monitor["accuracy"] = (logits.argmax(1) == batch.source_domain).float().mean()
        return {"cross_entropy": F.cross_entropy(logits, batch.source_domain)}
