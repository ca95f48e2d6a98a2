"""An image encoder that guesses the object: tokens of the picture, then a grid of guesses.

A pyramid of convolutions sees the picture, tells the camera (the direction as one of some azimuths)
and one code of the whole; a smaller pyramid of 3D convolutions grows a grid from that code, and at
every cell sees the picture's features where the camera shows that cell.  What it guesses of a cell
are whether the surface passes it, and the latents there.  Flows with ``guess_channels`` take the
guess in beside their noisy latents (`scenes.objects.ss_flow`) and refine it.

Notation: b images, s pixels per side, r cells per side, c channels of the guess (the first is
occupancy in [-1, 1]), l picture tokens and m tokens of the guess with k channels, m k = c r^3.
The object is in [-0.5, 0.5]^3, z up, and the camera looks at its middle.

Source: Saito et al., "PIFu" (2019), for features sampled where a point is seen; Mescheder et al.,
"Occupancy Networks" (2019), for structure as classification.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from geo3d.config import require
from scenes.objects.condition import to_pixels

_GROUPS = 8
_PLACES = 9
"""Numbers that tell a cell where it is: in the object and before the camera."""


@dataclass(frozen=True)
class LiftingConfig:
    """Shape of the encoder."""

    size: int = 64
    """Pixels per side the images are reduced to."""
    widths: tuple[int, ...] = (32, 64, 128, 192)
    """Channels at a half, a quarter, an eighth and a sixteenth of the size."""
    code: int = 384
    """Channels of the code of the whole picture."""
    channels: int = 128
    """Of a token."""
    resolution: int = 16
    """Cells per side of the guess."""
    latent_channels: int = 13
    """Of the latents that are guessed."""
    grid_widths: tuple[int, int, int] = (64, 64, 32)
    """Channels of the grid at a quarter, a half, and the whole of the resolution."""
    joins: int = 0
    """Further blocks of the finest grid: what a cell holds goes on in its neighbours."""
    azimuths: int = 36
    """Directions all round that the camera is told apart by."""

    def __post_init__(self) -> None:
        require(len(self.widths) == 4, "widths", "four numbers")
        require(self.size % 16 == 0, "size", "a multiple of 16")
        require(self.resolution % 4 == 0, "resolution", "a multiple of 4")
        packs = self.guess_channels * self.resolution**3 % self.channels == 0
        require(packs, "channels", "a divisor of the numbers of the guess")

    @property
    def guess_channels(self) -> int:
        """Channels of the guess."""
        return 1 + self.latent_channels

    @property
    def picture_tokens(self) -> int:
        """Tokens of a picture, before those of its guess."""
        return (self.size // 8) ** 2

    @property
    def tokens(self) -> int:
        """Tokens of a picture and its guess."""
        return self.picture_tokens + self.guess_channels * self.resolution**3 // self.channels


class Guess(NamedTuple):
    """What the encoder says of pictures."""

    picture: Float[Tensor, "b l k"]
    """Tokens of the picture, row by row."""
    occupancy: Float[Tensor, "b r r r"]
    """Logits that the surface passes a cell."""
    latents: Float[Tensor, "b c-1 r r r"]
    """Of a cell, if the surface passes it."""
    azimuth: Float[Tensor, "b a"]
    """Logits of the camera's azimuth, in even bins from -pi."""
    camera: Float[Tensor, "b 5"]
    """Of the camera: elevation, inverse distance, focal length over distance, and the image's
    centre, its width being 1."""

    def tokens(self) -> Float[Tensor, "b l+m k"]:
        """Return the condition of the flows."""
        sure = 2 * self.occupancy.sigmoid()[:, None] - 1
        grid = torch.cat([sure, self.latents], dim=1)
        packed = grid.reshape(len(grid), -1, self.picture.shape[2])
        return torch.cat([self.picture, packed], dim=1)


class LiftingEncoder(nn.Module):
    """Images to tokens that hold a guess of the object."""

    def __init__(self, config: LiftingConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        w, g = config.widths, config.grid_widths
        self.stem = nn.Conv2d(3, w[0], 5, 2, 2)
        self.levels = nn.ModuleList(_Block(nn.Conv2d, width) for width in w)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 3, 2, 1) for fine, coarse in pairwise(w))
        flat = w[3] * (config.size // 16) ** 2
        self.whole = nn.Sequential(nn.Flatten(), nn.Linear(flat, config.code), nn.SiLU())
        self.camera = nn.Linear(config.code, config.azimuths + 5)
        self.tokens = nn.Conv2d(w[2] + w[3], config.channels, 1)
        self.middle = nn.Conv2d(config.channels + w[1], g[1], 3, 1, 1)
        self.fine = nn.Conv2d(g[1] + w[0], g[2], 3, 1, 1)
        self.seed = nn.Linear(config.code, g[0] * (config.resolution // 4) ** 3)
        self.coarse_grid = _Block(nn.Conv3d, g[0])
        self.enter = nn.ModuleList(
            nn.Conv3d(above + own + _PLACES, own, kernel, padding=kernel // 2)
            for above, own, kernel in ((g[0], g[1], 3), (g[1], g[2], 1))
        )
        self.steer = nn.ModuleList(nn.Linear(config.code, own) for own in g[1:])
        # the finest grid takes most of the time, and one convolution is enough to join its cells
        self.grid_blocks = nn.ModuleList(
            _Block(nn.Conv3d, own, count) for own, count in ((g[1], 2), (g[2], 1))
        )
        self.join = nn.Sequential(*(_Block(nn.Conv3d, g[2]) for _ in range(config.joins)))
        self.head = nn.Conv3d(g[2], config.guess_channels, 1)

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b l+m k"]:
        """Return the tokens of images with values in [0, 1]."""
        return self.guess(pixels).tokens()

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Float[Tensor, "b l+m k"]:
        """Return the tokens of images."""
        return self(to_pixels(images, self.config.size).to(self.stem.weight)).float()

    def guess(
        self,
        pixels: Float[Tensor, "b 3 s s"],
        cameras: Float[Tensor, "b 6"] | None = None,
        told: Float[Tensor, " b"] | None = None,
    ) -> Guess:
        """Return what is guessed of images.

        Args:
            pixels: values in [0, 1].
            cameras: the true ones (azimuth, then as `Guess.camera`), where training knows them.
            told: 1 where the grid is to see by the true camera, 0 by the guessed one.
        """
        h, seen = self.stem(2 * pixels - 1), []
        for i, block in enumerate(self.levels):
            h = block(h)
            seen.append(h)
            if i < len(self.downs):
                h = self.downs[i](F.silu(h))
        code = self.whole(seen[3])
        found = self.camera(code).float()
        azimuth, camera = found[:, : self.config.azimuths], found[:, self.config.azimuths :]
        camera = camera + camera.new_tensor([0.4, 0.5, 0.75, 0.5, 0.5])
        used = torch.cat([decoded_azimuth(azimuth)[:, None], camera], dim=1).detach()
        if cameras is not None and told is not None:
            used = torch.where(told[:, None] > 0, cameras, used)
        tokens = self.tokens(torch.cat([seen[2], _double(seen[3])], dim=1))
        middle = self.middle(torch.cat([_double(F.silu(tokens)), seen[1]], dim=1))
        fine = self.fine(torch.cat([_double(F.silu(middle)), seen[0]], dim=1))
        guess = self._grow(code, (middle, fine), used).float()
        picture = tokens.float().flatten(2).transpose(1, 2)
        picture = F.layer_norm(picture, picture.shape[-1:])
        return Guess(picture, guess[:, 0], guess[:, 1:], azimuth, camera)

    def _grow(self, code: Tensor, maps: tuple[Tensor, Tensor], cameras: Tensor) -> Tensor:
        """Return the grid of the guess, from the code and what the cameras see of the maps."""
        edge = self.config.resolution // 4
        h = self.seed(code).unflatten(1, (-1, edge, edge, edge))
        h = self.coarse_grid(h)
        for i, features in enumerate(maps):
            edge *= 2
            places = cells(edge, code.device)
            where, depth = project(places, cameras)
            own = F.grid_sample(
                features.float(), where[:, :, None], padding_mode="zeros", align_corners=False
            )[..., 0]
            ahead = torch.cat([where, depth[..., None], _axes(cameras, places)], dim=2)
            told = torch.cat([own, ahead.transpose(1, 2)], dim=1).unflatten(2, (edge,) * 3)
            h = self.enter[i](torch.cat([_double(F.silu(h)), told.to(h.dtype)], dim=1))
            h = self.grid_blocks[i](h + self.steer[i](code)[:, :, None, None, None])
        return self.head(F.silu(self.join(h)))


class _Block(nn.Module):
    """Convolutions beside the identity."""

    def __init__(self, kind: type[nn.Conv2d | nn.Conv3d], width: int, count: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, width) for _ in range(count))
        self.convs = nn.ModuleList(kind(width, width, 3, 1, 1) for _ in range(count))
        for parameter in self.convs[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.silu(norm(h)))
        return x + h


def cells(edge: int, device: torch.device | str = "cpu") -> Float[Tensor, "n 3"]:
    """Return the middles of the cells of a grid, x slowest."""
    steps = (torch.arange(edge, device=device) + 0.5) / edge - 0.5
    return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)


def project(
    points: Float[Tensor, "n 3"], cameras: Float[Tensor, "b 6"]
) -> tuple[Float[Tensor, "b n 2"], Float[Tensor, "b n"]]:
    """Return where cameras see points, the image being [-1, 1], and how far behind the middle."""
    right, down, forward = _frame(cameras)
    nearness, scale, cx, cy = cameras[:, 2:, None].unbind(1)
    x, y, z = (points @ axis.T for axis in (right, down, forward))
    # depth over the distance of the middle
    depth = (1 + z.T * nearness).clamp(min=0.2)
    u, v = scale * x.T / depth + cx, scale * y.T / depth + cy
    return torch.stack([2 * u - 1, 2 * v - 1], dim=2), z.T


def camera_parameters(
    c2w: Float[Tensor, "b 4 4"], intrinsics: Float[Tensor, "b 4"], size: int
) -> Float[Tensor, "b 6"]:
    """Return the azimuth of cameras that look at the middle, then what `Guess.camera` holds.

    Args:
        c2w: OpenCV poses.
        intrinsics: fx, fy, cx, cy in pixels.
        size: pixels per side.
    """
    position = c2w[:, :3, 3]
    distance = position.norm(dim=1)
    elevation = torch.asin((position[:, 2] / distance).clamp(-1, 1))
    # the right of the image also tells the azimuth from straight above
    azimuth = torch.atan2(-c2w[:, 0, 0], c2w[:, 1, 0])
    focal, cx, cy = intrinsics[:, 0] / size, intrinsics[:, 2] / size, intrinsics[:, 3] / size
    return torch.stack([azimuth, elevation, 1 / distance, focal / distance, cx, cy], dim=1)


def azimuth_bins(azimuth: Float[Tensor, " b"], count: int) -> Float[Tensor, "b a"]:
    """Return the share of each bin of an azimuth: it lies between two."""
    place = (azimuth + math.pi) / (2 * math.pi) * count
    low = place.floor()
    upper = F.one_hot((low.long() + 1) % count, count) * (place - low)[:, None]
    return upper + F.one_hot(low.long() % count, count) * (1 - place + low)[:, None]


def decoded_azimuth(logits: Float[Tensor, "b a"]) -> Float[Tensor, " b"]:
    """Return the mean azimuth of the likeliest bin and its neighbours."""
    count = logits.shape[1]
    near = logits.argmax(1)[:, None] + torch.arange(-1, 2, device=logits.device)
    share = logits.softmax(1).gather(1, near % count)
    place = (share * near).sum(1) / share.sum(1).clamp(min=1e-9)
    return place / count * 2 * math.pi - math.pi


def _frame(cameras: Float[Tensor, "b 6"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return right, down and forward of cameras, (b, 3) each."""
    (sa, ca), (se, ce) = (
        (torch.sin(angle), torch.cos(angle)) for angle in (cameras[:, 0], cameras[:, 1])
    )
    right = torch.stack([-sa, ca, torch.zeros_like(sa)], dim=1)
    forward = -torch.stack([ce * ca, ce * sa, se], dim=1)
    return right, torch.linalg.cross(forward, right), forward


def _axes(cameras: Float[Tensor, "b 6"], places: Float[Tensor, "n 3"]) -> Float[Tensor, "b n 6"]:
    """Return what is told of a cell besides where it is seen: its place, the view's direction."""
    forward = _frame(cameras)[2]
    b, n = len(cameras), len(places)
    return torch.cat([2 * places.expand(b, -1, -1), forward[:, None].expand(-1, n, -1)], dim=2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
