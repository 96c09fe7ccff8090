"""Where and how a drawn vehicle is photographed: everything about a picture that says nothing about its class.

A `Scene` is drawn from a random generator that is never told the class, so view, place, paint and light cannot leak it.
The camera is a real pinhole on an orbit around the car, and the street is drawn through the same camera as the car:
the horizon, the lane lines and the shadow then agree with the view, which flat backgrounds behind sprites never do.

World axes in metres: x from the tail to the nose, y up from the ground, z out of the side that faces the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from engine.synth.drawn.paint import (
    Colour,
    Exposure,
    Image,
    Points,
    Rng,
    fill,
    film_grain,
    gradient,
    mix,
    rectangle,
    round_off,
    stroke,
    write,
)

PAINTS: tuple[Colour, ...] = (
    (236, 238, 238),  # white
    (38, 34, 34),  # black
    (186, 184, 180),  # silver
    (110, 106, 102),  # grey
    (128, 60, 28),  # dark blue
    (190, 120, 50),  # blue
    (40, 32, 165),  # red
    (50, 82, 46),  # green
    (150, 180, 196),  # beige
    (40, 168, 226),  # yellow
    (48, 100, 205),  # orange
    (40, 56, 84),  # brown
    (196, 184, 140),  # pale blue
)
DOOR_WORDS = ("RENTAL 24", "FLOWERS", "BAKERY", "EXPRESS", "CITY TOUR", "SERVICE", "SCHOOL")
SIGN_WORDS = ("CAFE", "HOTEL", "PARKING", "BOOKS", "AUTO", "OPEN 24H", "MARKET", "BANK", "SALE")
SHORTEST_SIDE, LONGEST_SIDE = 500, 1100  # pixels
ASPECTS = (*[4 / 3] * 12, *[3 / 2] * 3, *[5 / 4] * 3, 16 / 9, 3 / 4)  # width over height, common ones more often


@dataclass(frozen=True)
class Scene:
    """One photograph's nuisance parameters. Angles in radians, lengths in metres unless said otherwise."""

    height: int  # pixels
    width: int  # pixels
    azimuth: float  # 0 looks at the side, positive sees the nose, negative the tail
    elevation: float
    distance: float
    roll: float
    mirrored: bool  # the car drives to the left instead of to the right
    filling: float  # share of the frame the car's bounding box takes in its tighter direction
    place: tuple[float, float]  # where in the room left over the car stands, -1..1
    paint: Colour
    sun: float  # direction of the sun around the vertical axis
    sunshine: float  # 0 overcast .. 1 hard light
    wheel_turn: float
    backdrop: int  # index into BACKDROPS
    backdrop_seed: int
    plate: str
    door_words: str  # empty on most cars
    exposure: Exposure


def draw_scene(rng: Rng) -> Scene:
    """A random scene; depends on the generator alone."""
    height, width = draw_size(rng)
    paint = PAINTS[rng.integers(len(PAINTS))]
    jitter = rng.normal(0, 8, 3) + rng.normal(0, 14)
    nose_side = rng.random() < 0.75
    turn = rng.uniform(0.38, 0.66)
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    plate = f"{rng.integers(10, 400)} {letters[rng.integers(len(letters))]} {rng.integers(1000, 9999)}"
    return Scene(
        height=height,
        width=width,
        azimuth=float(turn if nose_side else -turn),
        elevation=float(rng.uniform(0.05, 0.21)),
        distance=float(rng.uniform(9.0, 16.0)),
        roll=float(rng.normal(0, 0.02)),
        mirrored=bool(rng.random() < 0.5),
        filling=float(rng.uniform(0.90, 0.98)),
        place=(float(rng.uniform(-0.25, 0.25)), float(rng.uniform(0.15, 0.45))),
        paint=tuple(float(v) for v in np.clip(np.array(paint) + jitter, 12, 250)),  # type: ignore[arg-type]
        sun=float(rng.uniform(-1.4, 1.4)),
        sunshine=float(rng.uniform(0.1, 1.0)),
        wheel_turn=float(rng.uniform(0, 2 * np.pi)),
        backdrop=int(rng.integers(len(BACKDROPS))),
        backdrop_seed=int(rng.integers(1 << 31)),
        plate=plate,
        door_words=str(rng.choice(DOOR_WORDS)) if rng.random() < 0.15 else "",
        exposure=Exposure.draw(rng),
    )


def draw_size(rng: Rng) -> tuple[int, int]:
    """Height and width in pixels, both within SHORTEST_SIDE and LONGEST_SIDE."""
    aspect = ASPECTS[rng.integers(len(ASPECTS))] * float(rng.uniform(0.97, 1.03))
    shorter = int(rng.integers(SHORTEST_SIDE, 720))
    longer = min(round(shorter * max(aspect, 1 / aspect)), LONGEST_SIDE)
    return (shorter, longer) if aspect >= 1 else (longer, shorter)


class Camera:
    """A pinhole camera on an orbit around the car, aimed so that given points fill the scene's frame."""

    def __init__(self, scene: Scene, subject_N3: Points) -> None:
        sin_a, cos_a = np.sin(scene.azimuth), np.cos(scene.azimuth)
        sin_e, cos_e = np.sin(scene.elevation), np.cos(scene.elevation)
        towards = np.array([sin_a * cos_e, sin_e, cos_a * cos_e])
        right = np.array([cos_a, 0.0, -sin_a])
        self.position = np.array([0.0, 0.6, 0.0]) + scene.distance * towards
        axes = np.stack([right, np.cross(towards, right), -towards])
        cos_r, sin_r = np.cos(scene.roll), np.sin(scene.roll)
        flip = -1.0 if scene.mirrored else 1.0
        turn = np.array([[cos_r, -sin_r], [sin_r, cos_r]]) @ np.array([[flip, 0.0], [0.0, -1.0]])
        self.mirrored = scene.mirrored
        self._matrix = np.concatenate([turn @ axes[:2], axes[2:]])

        flat = self.project(subject_N3)
        low, high = flat.min(axis=0), flat.max(axis=0)
        frame = np.array([scene.width, scene.height], float)
        scale = scene.filling * float(min(frame / (high - low)))
        room = frame - scale * (high - low)
        shift = room * (1 + np.array(scene.place)) / 2 - scale * low
        self._matrix[:2] = scale * self._matrix[:2] + np.outer(shift, axes[2])

    def project(self, points_N3: Points) -> Points:
        """World points to pixels. The points must lie before the camera."""
        seen = (points_N3 - self.position) @ self._matrix.T
        return seen[:, :2] / seen[:, 2:]

    def horizon(self) -> float:
        """The row where the ground meets the sky, at the middle of the picture; may lie outside of it."""
        ahead = -self.position * [1, 0, 1]
        far = self.position + ahead / np.linalg.norm(ahead) * 1e5
        return float(self.project(far[None])[0, 1])


Backdrop = Callable[[Image, Camera, Rng, Scene], None]


def _sky(image: Image, horizon: int, rng: Rng, scene: Scene) -> Colour:
    """Sky down to the horizon; returns the haze colour there."""
    clear, grey = (214.0, 160.0, 96.0), (198.0, 194.0, 190.0)
    top = mix(grey, clear, scene.sunshine * float(rng.uniform(0.3, 1)))
    haze = mix(top, (240.0, 236.0, 228.0), float(rng.uniform(0.4, 0.8)))
    gradient(image, slice(0, max(horizon, 0)), top, haze)
    for _ in range(rng.integers(0, 4)):
        middle = rng.uniform(0, 1, 2) * [scene.width, max(horizon, 1) * 0.8]
        for _ in range(5):
            puff = middle + rng.normal(0, 1, 2) * [scene.width * 0.06, 8]
            size = (int(rng.uniform(0.03, 0.09) * scene.width), int(rng.uniform(6, 18)))
            cv2.ellipse(image, (int(puff[0]), int(puff[1])), size, 0, 0, 360, mix(haze, (250, 250, 250), 0.5), -1)
    return haze


def _ground(image: Image, horizon: int, near: Colour, far: Colour, rough: float) -> None:
    """Ground from the horizon to the lower edge, with a grain of its own."""
    start = min(max(horizon, 0), image.shape[0])
    gradient(image, slice(start, None), far, near)
    part = image[start:]
    if part.size:
        grain = film_grain()[100 : 100 + part.shape[0], 60 : 60 + part.shape[1]]
        cv2.addWeighted(part, 1.0, grain, rough / 30, -128 * rough / 30, dst=part)


def _lines(image: Image, camera: Camera, depths: list[float], colour: Colour, dash: float) -> None:
    """Painted lines along the car's direction at the given z, as dashes `dash` metres long (0: unbroken)."""
    for z in depths:
        ends = np.arange(-30, 30, dash * 2) if dash else np.array([-30.0])
        for x in ends:
            stop = x + (dash or 60.0)
            corners = np.array([[x, 0, z], [stop, 0, z], [stop, 0, z + 0.14], [x, 0, z + 0.14]])
            if _in_front(camera, corners):
                fill(image, camera.project(corners), colour)


def _in_front(camera: Camera, points_N3: Points) -> bool:
    ahead = -camera.position / np.linalg.norm(camera.position)
    return bool((((points_N3 - camera.position) @ ahead) > 0.4).all())


def _muted(rng: Rng) -> Colour:
    """A colour walls are painted in: any brightness, little saturation."""
    return tuple(np.clip(rng.uniform(70, 205) + rng.normal(0, 11, 3), 30, 240))


def _placed(left: float, top: float, width: float, height: float) -> Points:
    return rectangle(left, top, left + width, top + height)


def _blocks(image: Image, horizon: int, rng: Rng, scene: Scene, tallest: float, haze: Colour) -> None:
    """A row of buildings that stand on the horizon, with windows and a sign or two."""
    x = -rng.uniform(0, 80)
    while x < scene.width:
        wide = rng.uniform(0.10, 0.30) * scene.width
        tall = rng.uniform(0.35, 1.0) * tallest * scene.height
        wall = mix(_muted(rng), haze, 0.2)
        top, left = horizon - tall, x
        fill(image, _placed(left, top, wide, tall + 4), wall)
        pane = mix(wall, (60, 50, 40) if rng.random() < 0.6 else (210, 220, 225), 0.55)
        rows, columns = max(2, int(tall / rng.uniform(30, 60))), max(2, int(wide / rng.uniform(28, 60)))
        for r in range(rows - 1):
            for c in range(columns):
                place = left + (c + 0.22) * wide / columns, top + (r + 0.25) * tall / rows
                fill(image, _placed(*place, 0.56 * wide / columns, 0.55 * tall / rows), pane)
        if rng.random() < 0.5:
            sign = tuple(rng.uniform(30, 220, 3))
            fill(image, _placed(left + wide * 0.08, horizon - tall / rows - 6, wide * 0.84, 22), sign)
            write(
                image, str(rng.choice(SIGN_WORDS)), (left + wide * 0.12, horizon - tall / rows + 12), 13, (245,) * 3, 2
            )
        x += wide + rng.uniform(0, 12)


def _trees(image: Image, horizon: int, rng: Rng, scene: Scene, count: int) -> None:
    for _ in range(count):
        x, size = rng.uniform(0, scene.width), rng.uniform(0.08, 0.20) * scene.height
        leaf = (rng.uniform(30, 60), rng.uniform(70, 120), rng.uniform(50, 90))
        fill(image, _placed(x - size * 0.06, horizon - size, size * 0.12, size * 1.05), (50, 66, 82))
        for _ in range(7):
            puff = np.array([x, horizon - size * 1.25]) + rng.normal(0, 0.30, 2) * size
            tone = mix(leaf, (20, 40, 30) if rng.random() < 0.5 else (120, 190, 160), 0.3)
            cv2.circle(image, (int(puff[0]), int(puff[1])), int(size * rng.uniform(0.22, 0.42)), tone, -1, cv2.LINE_AA)


def _street(image: Image, camera: Camera, rng: Rng, scene: Scene) -> None:
    horizon = int(camera.horizon())
    haze = _sky(image, horizon, rng, scene)
    _blocks(image, horizon, rng, scene, float(rng.uniform(0.2, 0.6)), haze)
    if rng.random() < 0.5:
        _trees(image, horizon, rng, scene, int(rng.integers(1, 6)))
    asphalt = float(rng.uniform(70, 130))
    _ground(image, horizon, (asphalt,) * 3, (asphalt + 25,) * 3, 6)
    kerb = np.array([[-40, 0, -3.4], [40, 0, -3.4], [40, 0, -9.0], [-40, 0, -9.0]])
    if _in_front(camera, kerb):
        fill(image, camera.project(kerb), (asphalt + 45, asphalt + 52, asphalt + 55))
    _lines(image, camera, [-3.0], (200, 210, 215), 0)
    _lines(image, camera, [1.9], (215, 220, 225), float(rng.uniform(1.5, 3)))


def _country(image: Image, camera: Camera, rng: Rng, scene: Scene) -> None:
    horizon = int(camera.horizon())
    haze = _sky(image, horizon, rng, scene)
    for layer in range(3):
        x = np.linspace(-10, scene.width + 10, 9)
        rise = scene.height * (0.22 - 0.06 * layer) * rng.uniform(0.2, 1, 9)
        ridge = np.concatenate(
            [np.stack([x, horizon - rise], 1), [[scene.width + 10, horizon + 3], [-10, horizon + 3]]]
        )
        green = (70.0, float(rng.uniform(90, 130)), float(rng.uniform(70, 110)))
        fill(image, round_off(ridge), mix(green, haze, 0.75 - 0.3 * layer))
    _trees(image, horizon, rng, scene, int(rng.integers(3, 10)))
    grass = (float(rng.uniform(40, 80)), float(rng.uniform(95, 140)), float(rng.uniform(80, 130)))
    _ground(image, horizon, grass, mix(grass, haze, 0.3), 9)
    road = np.array([[-40, 0, -3.2], [40, 0, -3.2], [40, 0, 3.4], [-40, 0, 3.4]])
    tone = float(rng.uniform(85, 140))
    ends = road if _in_front(camera, road) else road * [0.25, 1, 1]
    if _in_front(camera, ends):
        fill(image, camera.project(ends), (tone, tone, tone + 4))
    _lines(image, camera, [-2.8], (205, 210, 215), float(rng.choice([0.0, 2.0])))


def _car_park(image: Image, camera: Camera, rng: Rng, scene: Scene) -> None:
    horizon = int(camera.horizon())
    haze = _sky(image, horizon, rng, scene)
    if rng.random() < 0.6:
        _trees(image, horizon, rng, scene, int(rng.integers(2, 8)))
    tone = float(rng.uniform(100, 160))
    _ground(image, horizon, (tone, tone + 3, tone + 4), mix((tone,) * 3, haze, 0.4), 8)
    wall = np.array([[-30, 0, -3.6], [30, 0, -3.6], [30, 1, -3.6], [-30, 1, -3.6]]) * [1, rng.uniform(0.8, 2.6), 1]
    colour = _muted(rng)
    if rng.random() < 0.7 and _in_front(camera, wall):
        fill(image, camera.project(wall), colour)
        for x in np.arange(-30, 30, rng.uniform(1.0, 3.0)):
            seam = np.array([[x, 0.0, -3.58], [x, wall[2, 1], -3.58]])
            stroke(image, camera.project(seam), mix(colour, (30, 30, 30), 0.3), 1)
    for x in np.arange(-15.2, 15, 5.8):
        line = np.array([[x, 0, -3.3], [x + 0.12, 0, -3.3], [x + 0.12, 0, 2.6], [x, 0, 2.6]])
        if _in_front(camera, line):
            fill(image, camera.project(line), (225, 228, 230))


def _showroom(image: Image, camera: Camera, rng: Rng, scene: Scene) -> None:
    horizon = int(camera.horizon()) + int(0.08 * scene.height)
    wall = _muted(rng)
    gradient(image, slice(0, max(horizon, 0)), mix(wall, (255, 255, 255), 0.3), wall)
    floor = mix(wall, _muted(rng), 0.6)
    _ground(image, horizon, mix(floor, (255, 255, 255), 0.25), mix(floor, (40, 40, 40), 0.15), 3)
    for _ in range(rng.integers(0, 5)):
        left = rng.uniform(-0.1, 1) * scene.width
        panel = _placed(left, rng.uniform(-0.1, 0.3) * scene.height, rng.uniform(0.05, 0.25) * scene.width, 3000)
        panel[:, 1] = np.minimum(panel[:, 1], horizon)
        fill(image, panel, mix(wall, tuple(rng.uniform(40, 255, 3)), 0.35))
    if rng.random() < 0.5:
        place = (rng.uniform(0.02, 0.6) * scene.width, rng.uniform(0.1, 0.3) * scene.height)
        write(image, str(rng.choice(SIGN_WORDS)), place, 0.06 * scene.height, mix(wall, (20, 20, 120), 0.6), 4)


BACKDROPS: tuple[Backdrop, ...] = (_street, _country, _car_park, _showroom)


def draw_backdrop(scene: Scene, camera: Camera) -> Image:
    """An image of the place, without the car: uint8 BGR, (scene.height, scene.width, 3)."""
    image = np.full((scene.height, scene.width, 3), 128, np.uint8)
    BACKDROPS[scene.backdrop](image, camera, np.random.default_rng(scene.backdrop_seed), scene)
    return image
