"""DeepVAE: images of one domain from noise, through the levels of a feature pyramid (Katzir et al., Cross-Domain
Cascaded Deep Translation, supplement, section 6).

A variational autoencoder of the deepest map, conditional Wasserstein GANs from each map to the next shallower one,
feature inversion at the end. Pyramid, trunk, critics, inversion networks and their training are the cascade's own. As a
"translation" it ignores the input and draws an image. Equation and table numbers are the supplement's;
docs/methods/cascade.md lists the readings.

Legend: x_i [N, C, h, h] in [-1, 1] is a real map at level i, z_i [N, Z] the noise of level i, G_i the generators, E the
encoder of the deepest map, D_i the critics. A latent of the method is all z_i side by side, deepest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from unpaired import losses
from unpaired.batch import Batch, Pair, Side
from unpaired.methods.base import Adam, Update
from unpaired.methods.levels import Count, LevelConfig, LevelMethod, Maps, Weight, bind
from unpaired.networks.convnets import draw_latents
from unpaired.networks.pyramid import (
    Conditional,
    ContentTrunk,
    Critic,
    MapDecoder,
    MapEncoder,
    StyleFromNoise,
)


class DeepVAEConfig(LevelConfig):
    """Every number of the supplement, and those it leaves out."""

    latent: Annotated[int, Field(ge=1)] = 512
    """nz: numbers in the noise of each level."""
    kl_weight: Weight = 1.0
    """β of the KL term (Eq. 1), which with the squared error is counted once for each sample; 1 is the ELBO."""
    batch_size: Count = 10
    """Images in a step of a level."""


class DeepVAE(LevelMethod):
    """One domain; makes images from noise (supplement, Fig. 19).

    Stages: the inversion networks, the VAE of the deepest level, then the generators of each shallower one, each on
    real deeper maps. ``translate`` draws an image for each input; ``latents`` gives the noise itself.
    """

    Config: ClassVar[type[DeepVAEConfig]] = DeepVAEConfig
    training_only: ClassVar[tuple[str, ...]] = ("critics", "judges")
    made_from_deeper: ClassVar[bool] = False
    reads: ClassVar[tuple[Side, ...]] = ("source",)
    from_noise: ClassVar[bool] = True
    any_source: ClassVar[bool] = True
    domain_count: ClassVar[tuple[int, int | None]] = (1, 1)

    def __init__(self, config: DeepVAEConfig, domains: tuple[str, ...], **rest: Any) -> None:
        super().__init__(config, domains, **rest)
        c = config
        channels, sides = self.pyramid.channels, self.pyramid.sides
        deepest = c.levels[0]
        self.encoder = MapEncoder(channels[deepest], sides[deepest], c.latent, c.width)  # E
        self.makers, self.critics = nn.ModuleDict(), nn.ModuleDict()
        self.makers[str(deepest)] = MapDecoder(channels[deepest], sides[deepest], c.latent, c.width)
        for deeper, level in zip(c.levels, c.levels[1:], strict=False):
            trunk = ContentTrunk(channels[deeper], channels[level], sides[deeper], sides[level], c.width)
            self.makers[str(level)] = Conditional(trunk, StyleFromNoise(c.latent, trunk.widths, c.width))  # G_i
            self.critics[str(level)] = Critic(channels[level], sides[level], c.width)  # D_i

    # -- plan

    @property
    def directions(self) -> Sequence[Pair]:
        """The domain onto itself."""
        return ((self.domains[0], self.domains[0]),)

    @property
    def latent_size(self) -> int:
        return int(self.config.latent) * len(self.config.levels)

    def level_updates(self, index: int, adam: Adam) -> tuple[Callable[[Batch], Any], tuple[Update, ...]]:
        c: DeepVAEConfig = self.config
        key = str(c.levels[index])
        maker = self.makers[key]
        given = bind(self.given, index)
        if index == 0:
            return given, (Update(f"vae-{key}", self.vae_loss, (self.encoder, maker), adam),)
        return given, (
            Update(f"critic-{key}", bind(self.critic_loss, index), (self.critics[key],), adam),
            Update(f"generator-{key}", bind(self.generator_loss, index), (maker,), adam, every=c.generator_every),
        )

    # -- synthesis

    def make(self, index: int, noise: Tensor, deeper: Tensor | None) -> Tensor:
        """G_i of level number ``index``: its map from noise [N, Z] and, but for the deepest, the next deeper map."""
        maker = self.makers[str(self.config.levels[index])]
        made: Tensor = maker(noise) if deeper is None else maker(noise, deeper)
        return made

    def synthesise(self, latents: Tensor, count: int, deepest: Tensor | None = None) -> list[Tensor]:
        """Maps of the first ``count`` levels from [N, ``latent_size``]; ``deepest`` replaces the first one."""
        made: list[Tensor] = []
        for index, noise in enumerate(torch.split(latents, self.config.latent, dim=1)[:count]):
            if index == 0 and deepest is not None:
                made.append(deepest)
            else:
                made.append(self.make(index, noise, made[-1] if made else None))
        return made

    def pictures(self, made: list[Tensor]) -> list[Tensor]:
        """Inversions of the maps whose level has an inversion network."""
        levels = self.config.levels
        return [
            self.picture(level, x, 0) for level, x in zip(levels, made, strict=False) if level in self.config.inverted
        ]

    def inputs(
        self, images: Tensor, target: str, generator: torch.Generator | None = None, latents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The latents [N, Z] of all levels."""
        return (draw_latents(self.latent_size, images, generator, latents),)

    def render(self, images: Tensor, source: str | None, target: str, *inputs: Tensor) -> Tensor:
        """The image that the latents' maps become."""
        (z,) = inputs
        return self.pictures(self.synthesise(z, self.shown))[-1].to(images.dtype)

    def views(self, images: Tensor, source: str, target: str) -> dict[str, Tensor]:
        """The same samples as on the sheets at the deeper levels."""
        noise = torch.Generator(images.device).manual_seed(0)  # as the sheets draw them
        made = self.synthesise(draw_latents(self.latent_size, images, noise, None), self.shown)
        names = [f"level {level}" for level in self.config.levels if level in self.config.inverted]
        return dict(zip(names, self.pictures(made)[:-1], strict=False))

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] -> the mean of their latents [N, Z] at the deepest level."""
        deepest = self.config.levels[0]
        mean: Tensor = self.encoder(self.pyramid(images, 0, (deepest,))[deepest])[0]
        return mean

    def reconstruct(self, images: Tensor, domain: str) -> Tensor | None:
        """Through the VAE: the deepest map of ``images`` encoded and decoded; the shallower levels from noise 0."""
        noise = torch.zeros(len(images), self.latent_size, device=images.device)
        deepest = self.make(0, self.encode(images), None)
        return self.pictures(self.synthesise(noise, self.shown, deepest))[-1]

    # -- losses

    def given(self, batch: Batch, index: int) -> Maps:
        """Real maps of the same crops, down to level number ``index``: no loss sees anything else of a batch."""
        return self.maps(batch.source, 0, index)

    def vae_loss(self, batch: Batch, maps: Maps) -> dict[str, Tensor]:
        """Eq. 1 as a loss, divided by the elements of a map: ½ ||x - G(z)||² + β KL(q(z | x) || N(0, I)), z ~ q = N(μ,
        σ²)."""
        c: DeepVAEConfig = self.config
        x = maps[c.levels[0]]
        mean, log_variance = self.encoder(x)
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        elements = x[0].numel()
        return {
            "reconstruction": 0.5 * losses.mean_square(self.make(0, z, None) - x),
            "kl": c.kl_weight * losses.kl_normal(mean, log_variance) / elements,
        }

    def _pair(self, maps: Maps, index: int) -> tuple[Tensor, Tensor]:
        """Those (y, x) of level number ``index`` and of the next deeper one."""
        return maps[self.config.levels[index]], maps[self.config.levels[index - 1]]

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(len(like), self.config.latent, device=like.device)

    def critic_loss(self, batch: Batch, maps: Maps, index: int) -> dict[str, Tensor]:
        """Eq. 2 for D_i: E D(G(x, z)) - E D(y) + λ_gp E (||∇D(ŷ)|| - 1)², x a real deeper map."""
        y, x = self._pair(maps, index)
        with torch.no_grad():
            fake = self.make(index, self._noise(x), x)
        critic: Any = self.critics[str(self.config.levels[index])]
        gap, penalty = self.critic_terms(critic, y, fake, critic.slopes)
        return {"gap": gap, "penalty": penalty}

    def generator_loss(self, batch: Batch, maps: Maps, index: int) -> dict[str, Tensor]:
        """Eq. 2 for G_i, which raises what D lowers: -E D(G(x, z))."""
        _, x = self._pair(maps, index)
        fake = self.make(index, self._noise(x), x)
        return {"adversarial": -self.critics[str(self.config.levels[index])](fake)[0].float().mean()}
