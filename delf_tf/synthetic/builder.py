"""The solids that buildings are made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from delf_tf.synthetic import textures
from delf_tf.synthetic.facades import FacadeStyle, draw_facade
from delf_tf.synthetic.geometry import GABLE, QUAD, Face, trapezoid
from delf_tf.synthetic.textures import Texture, surface, tinted, weathered

_MAX_FACADES = 3


class Builder:
    """Collects the faces of a landmark while a function of `KINDS` builds it."""

    def __init__(self, rng: np.random.Generator, style: FacadeStyle):
        """Begins a landmark.

        Args:
          rng: decides everything but the style.
          style: of the façades.
        """
        self.rng, self.style = rng, style
        self.faces: list[Face] = []
        roof = tinted(textures.ROOF_COLOURS[rng.integers(len(textures.ROOF_COLOURS))], rng)
        pattern = textures.ROOF_PATTERNS[rng.integers(len(textures.ROOF_PATTERNS))]
        self.roof = Texture.of(weathered(rng, surface(rng, pattern, roof, (192, 256))))
        self.trim = Texture.of(weathered(rng, surface(rng, "ashlar", style.trim, (192, 192))))
        self.wall = Texture.of(weathered(rng, surface(rng, style.pattern, style.wall, (256, 256))))
        self._fronts: list[Texture] = []
        self._sides: dict[int, Texture] = {}

    def uniform(self, low: float, high: float) -> float:
        """Returns a random number."""
        return float(self.rng.uniform(low, high))

    def front(self, height: float, width: float, centrepiece: str | None = None) -> Texture:
        """Returns a façade; after the first few, an earlier one again."""
        if len(self._fronts) == _MAX_FACADES:
            return self._fronts[-1]
        is_main = not self._fronts
        image = draw_facade(
            self.rng, self.style, (height, width), is_main=is_main, centrepiece=centrepiece
        )
        self._fronts.append(Texture.of(image))
        return self._fronts[-1]

    def side(self, height: float) -> Texture:
        """Returns two bays of a plain façade, to be repeated along a wall."""
        floors = max(1, round(height / self.style.floor_m))
        if floors not in self._sides:
            size = floors * self.style.floor_m, 2 * self.style.bay_m
            image = draw_facade(self.rng, self.style, size, is_main=False)
            self._sides[floors] = Texture.of(image)
        return self._sides[floors]

    def quad(
        self,
        origin: Sequence[float],
        across: Sequence[float],
        down: Sequence[float],
        texture: Texture,
        **options: object,
    ) -> None:
        """Adds one face; lengths of zero are passed over."""
        across_, down_ = np.asarray(across, np.float64), np.asarray(down, np.float64)
        if np.linalg.norm(np.cross(down_, across_)) > 1e-6:
            face = Face(np.asarray(origin, np.float64), across_, down_, texture, **options)  # type: ignore[arg-type]
            self.faces.append(face)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        front: Texture,
        side: Texture | None = None,
        *,
        top: Texture | None = None,
        is_facade: bool = False,
    ) -> None:
        """Adds a box: front towards +z, sides and back with repeated bays, flat top and bottom."""
        side, top = side or front, top or self.trim
        wide, tall, deep = x[1] - x[0], y[1] - y[0], z[1] - z[0]
        bays = max(1, round(deep / (2 * self.style.bay_m))), 1
        back = max(1, round(wide / (2 * self.style.bay_m))), 1
        down = (0, -tall, 0)
        self.quad((x[0], y[1], z[1]), (wide, 0, 0), down, front, is_facade=is_facade)
        self.quad((x[1], y[1], z[1]), (0, 0, -deep), down, side, repeat=bays)
        self.quad((x[0], y[1], z[0]), (0, 0, deep), down, side, repeat=bays)
        self.quad((x[1], y[1], z[0]), (-wide, 0, 0), down, side, repeat=back)
        repeat = max(0.3, wide / 6), max(0.3, deep / 6)
        self.quad((x[0], y[1], z[0]), (wide, 0, 0), (0, 0, deep), top, repeat=repeat)
        if y[0] > 0:
            self.quad((x[0], y[0], z[1]), (wide, 0, 0), (0, 0, -deep), top, repeat=repeat)

    def gable_roof(
        self,
        x: tuple[float, float],
        z: tuple[float, float],
        y: float,
        rise: float,
        *,
        gable: Texture | None = None,
    ) -> None:
        """Adds a roof whose ridge runs along z, with gables in front and behind."""
        middle, wide, deep = (x[0] + x[1]) / 2, x[1] - x[0], z[1] - z[0]
        repeat = deep / 7, np.hypot(wide / 2, rise) / 6
        gable = gable or self.wall
        self.quad((x[0], y + rise, z[1]), (wide, 0, 0), (0, -rise, 0), gable, edges=GABLE)
        self.quad((x[1], y + rise, z[0]), (-wide, 0, 0), (0, -rise, 0), gable, edges=GABLE)
        eave = 0.06
        slope = (wide / 2 * (1 + eave), -rise * (1 + eave), 0)
        self.quad((middle, y + rise, z[1]), (0, 0, -deep), slope, self.roof, repeat=repeat)
        slope = (-slope[0], slope[1], 0)
        self.quad((middle, y + rise, z[0]), (0, 0, deep), slope, self.roof, repeat=repeat)

    def hip_roof(
        self, x: tuple[float, float], z: tuple[float, float], y: float, rise: float
    ) -> None:
        """Adds a roof that slopes to all four sides; a pyramid over a square."""
        wide, deep = x[1] - x[0], z[1] - z[0]
        run = min(wide, deep) / 2
        corners = [(x[0], z[1]), (x[1], z[1]), (x[1], z[0]), (x[0], z[0])]
        self.quad(
            (x[0], y, z[1]), (wide, 0, 0), (0, 0, -deep), self.trim, repeat=(wide / 4, deep / 4)
        )
        for start, end in zip(corners, [*corners[1:], corners[0]]):
            along = np.array([end[0] - start[0], 0, end[1] - start[1]])
            length = float(np.linalg.norm(along))
            inward = np.array([along[2], 0, -along[0]]) / length * run
            top = np.array([start[0], y + rise, start[1]]) + inward
            down = -inward + (0, -rise, 0)
            edges = trapezoid(min(0.5, run / length))
            repeat = length / 7, float(np.hypot(run, rise)) / 6
            self.quad(top, along, down, self.roof, edges=edges, repeat=repeat)

    def prism(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        y: tuple[float, float],
        num_sides: int,
        texture: Texture,
        *,
        repeat: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """Adds a tower, column, cone (upper radius 0) or a ring of a dome around a vertical axis.

        Args:
          centre: (x, z).
          radii: below and above.
          y: below and above.
          num_sides: of the polygon.
          texture: of each side.
          repeat: of the texture on each side.
        """
        angles = (np.arange(num_sides + 1) + 0.5) * 2 * np.pi / num_sides
        below = np.stack([np.sin(angles), np.cos(angles)], axis=1) * radii[0] + centre
        above = np.stack([np.sin(angles), np.cos(angles)], axis=1) * radii[1] + centre
        inset = 0.5 * (1 - radii[1] / radii[0]) if radii[0] > 0 else 0.0
        for at in range(num_sides):
            along = np.array([below[at + 1, 0] - below[at, 0], 0, below[at + 1, 1] - below[at, 1]])
            top = np.array([above[at, 0], y[1], above[at, 1]]) - along * inset
            foot = np.array([below[at, 0], y[0], below[at, 1]])
            edges = trapezoid(inset) if inset > 0 else QUAD
            self.quad(top, along, foot - top, texture, edges=edges, repeat=repeat)

    def dome(
        self,
        centre: tuple[float, float],
        radius: float,
        y: float,
        rise: float,
        *,
        texture: Texture,
    ) -> None:
        """Adds a dome of three rings."""
        angles = np.array([0.0, 0.5, 1.05, np.pi / 2])
        for low, high in itertools.pairwise(angles):
            radii = float(radius * np.cos(low)), float(radius * max(0.0, np.cos(high)))
            span = y + rise * float(np.sin(low)), y + rise * float(np.sin(high))
            self.prism(centre, radii, span, 10, texture, repeat=(0.5, 0.4))

    def battlements(self, x: tuple[float, float], y: float, z: float) -> None:
        """Adds merlons along a wall's top."""
        step = 1.8
        for left in np.arange(x[0], x[1] - step * 0.5, step):
            self.box(
                (left, left + step * 0.55),
                (y, y + step * 0.7),
                (z - 0.6, z),
                self.wall,
                top=self.wall,
            )
