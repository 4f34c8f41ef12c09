r"""A PHANTOM of RETOUCH: computer-drawn OCT volumes in the challenge's layout, with fluids whose mm3 are known.

RETOUCH may not be passed on. Whoever has no copy can try the OCT half of this project on the phantom, and whoever has one can
check a set-up with it before days on a GPU. No patient was ever seen here: **figures on a phantom say nothing about
patients.** It is called a PHANTOM in every name it bears, and `prepare_retouch.py` records it as one.

    python examples/oct_phantom.py --output outputs/phantom
    python examples/oct_phantom.py --output outputs/phantom_full --size full --volumes-per-vendor 3

Written below --output:

    PHANTOM-RETOUCH-TrainingSet-VENDOR/PHANTOMnnn/{oct,reference}.{mhd,raw}   one volume and its reference (1 IRF, 2 SRF, 3 PED)
    truth.csv      mm3 of each fluid of each volume: counted (voxels x spacing) and analytic (of the shapes that were drawn)
    splits.csv     every vendor in train, validation and test, for prepare_retouch.py --splits

Sizes, sample types and spacings are those of Cirrus, Spectralis and Topcon; `--size small` keeps the field of view and
the shape of the B-scans at 192 columns. The same seed writes the same bytes.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_resformer.errors import BadInputError
from modeling_resformer.files import finished_folder


FLUIDS = ("IRF", "SRF", "PED")  # their codes are 1, 2, 3
COLUMNS = {"full": 512, "small": 192}
SMALL_SLICES = 16
# Fluids of the volumes of a vendor, in turn; each vendor begins at another place.
TURNS: tuple[tuple[str, ...], ...] = (
    ("IRF", "SRF", "PED"),
    (),
    ("IRF",),
    ("SRF", "PED"),
    ("IRF", "SRF"),
    ("PED",),
    ("IRF", "PED"),
    ("SRF",),
)
MOST_VOLUMES = 22  # so that the ids of the vendors, numbered as in the challenge, stay apart

# Layers from the vitreous down: thickness in mm beside the fovea, its factor at the centre of the fovea, brightness 0..1.
LAYERS = {
    "RNFL": (0.032, 0.10, 0.78),
    "GCL": (0.042, 0.06, 0.50),
    "IPL": (0.036, 0.06, 0.64),
    "INL": (0.034, 0.12, 0.36),
    "OPL": (0.026, 0.35, 0.62),
    "ONL": (0.070, 1.30, 0.33),
    "ELM": (0.008, 1.00, 0.54),
    "IS": (0.024, 1.10, 0.44),
    "EZ": (0.014, 1.00, 0.84),
    "OS": (0.026, 1.25, 0.54),
    "SRF": (0.0, 1.00, 0.13),
    "RPE": (0.024, 1.00, 0.92),
    "PED": (0.0, 1.00, 0.34),
    "BM": (0.006, 1.00, 0.62),
}
NAMES = tuple(LAYERS)
THINNED = NAMES.index("ONL")  # gives way to fluid below; the layers above it make the pit of the fovea
CYST_LAYERS = ("INL", "ONL")
VITREOUS, CYST, CHOROID = 0.10, 0.12, 0.58  # brightness
OPTICAL_BLUR = 0.005  # mm, along depth
MOTION = 0.006  # mm, of the eye along depth, from one B-scan to the next
NOISE = 0.93  # the device's own noise: where it lies on the logarithmic scale, 0 white and 1 black


@dataclass(frozen=True)
class Vendor:
    """One device.

    Args:
        name: as RETOUCH's folders spell it.
        first_id: number of its first volume.
        dtype: of its samples.
        slices: B-scans of a volume.
        rows: (rows, mm per row) of its B-scans, in turn.
        column_mm, slice_mm: (lowest, highest) distance; a volume has one between them.
        looks: how many independent images seem averaged; the more, the less speckle.
        decades: decades of reflectivity between black and white.
        black, gain: what is added to, and multiplied with, the brightness 0..1.
        shadow: share of the brightness that is left below a vessel.
    """

    name: str
    first_id: int
    dtype: str
    slices: int
    rows: tuple[tuple[int, float], ...]
    column_mm: tuple[float, float]
    slice_mm: tuple[float, float]
    looks: float
    decades: float
    black: float
    gain: float
    shadow: float


VENDORS = (
    Vendor("Cirrus", 1, "uint8", 128, ((1024, 0.00196),), (0.0117,) * 2, (0.047,) * 2, 1.6, 3.6, 0.12, 0.80, 0.62),
    Vendor(
        "Spectralis", 25, "uint16", 49, ((496, 0.0039),), (0.0109, 0.0120), (0.116, 0.129), 14.0, 2.8, 0.0, 0.95, 0.45
    ),
    Vendor(
        "Topcon",
        49,
        "uint8",
        128,
        ((885, 0.0026), (650, 0.0035)),
        (0.0117,) * 2,
        (0.047,) * 2,
        3.5,
        3.2,
        0.06,
        0.88,
        0.55,
    ),
)


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: shape (slices, rows, columns), spacing of the same axes in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def centred(self, axis: int) -> np.ndarray:
        """Places in mm along an axis, 0 in the middle of the field."""
        count = self.shape[axis]
        return (np.arange(count) - (count - 1) / 2) * self.spacing[axis]


@dataclass(frozen=True)
class Dome:
    """Fluid on a layer, `height` x (1 - r^2)^`power` high where r, the distance from its middle in radii, is below 1; mm."""

    x: float
    z: float
    radius_x: float
    radius_z: float
    height: float
    power: float

    def distances(self, x: np.ndarray, z: float) -> np.ndarray:
        """Squared distance from its middle, in radii."""
        return ((x - self.x) / self.radius_x) ** 2 + ((z - self.z) / self.radius_z) ** 2

    def heights(self, x: np.ndarray, z: float) -> np.ndarray:
        return self.height * np.clip(1 - self.distances(x, z), 0, None) ** self.power

    def relief(self, x: np.ndarray, z: float) -> np.ndarray:
        """How much the inner retina is lifted: less than the dome, and without its edge."""
        return 0.85 * self.height * np.exp(-1.5 * self.distances(x, z))

    @property
    def mm3(self) -> float:
        """The integral of its height."""
        return math.pi * self.radius_x * self.radius_z * self.height / (self.power + 1)


@dataclass(frozen=True)
class Cyst:
    """An ellipsoid in the middle of a layer; mm. Where the layer is bent it is sheared, which leaves its volume as it is."""

    x: float
    z: float
    radius_x: float
    radius_z: float
    radius_y: float
    layer: str

    def distances(self, x: np.ndarray, z: float) -> np.ndarray:
        """Squared distance from its middle, in radii."""
        return ((x - self.x) / self.radius_x) ** 2 + ((z - self.z) / self.radius_z) ** 2

    def half_heights(self, x: np.ndarray, z: float) -> np.ndarray:
        return self.radius_y * np.sqrt(np.clip(1 - self.distances(x, z), 0, None))

    def swelling(self, x: np.ndarray, z: float) -> np.ndarray:
        """How much thicker the layer is: nowhere less than the cyst, since exp(-s) >= 1 - s, and smoother."""
        across, along = (x - self.x) / (self.radius_x + 0.2), (z - self.z) / (self.radius_z + 0.2)
        return 2.15 * self.radius_y * np.exp(-(across**2 + along**2) / 2)

    @property
    def mm3(self) -> float:
        return 4 / 3 * math.pi * self.radius_x * self.radius_y * self.radius_z


@dataclass(frozen=True)
class Vessel:
    """A vessel of the retina, seen from the front: x = middle + slope z + bend sin(turn z + phase); mm."""

    middle: float
    slope: float
    bend: float
    turn: float
    phase: float
    radius: float

    def strength(self, x: np.ndarray, z: float) -> np.ndarray:
        """1 in the middle of the vessel, 0 beside it."""
        place = self.middle + self.slope * z + self.bend * math.sin(self.turn * z + self.phase)
        return np.exp(-(((x - place) / self.radius) ** 2) / 2)


@dataclass(frozen=True)
class Eye:
    """One drawn retina: its shape, its vessels and its fluids; lengths in mm.

    Args:
        depth: of Bruch's membrane below the top of the B-scan, in the middle.
        tilt_x, tilt_z: slopes.
        curvature: 1 / radius; positive where the retina is a bowl.
        waves: (height, per mm along x, per mm along z, phase) of what is not straight about it.
        fovea_x, fovea_z: where the pit is.
        pit: 0..1, how deep.
        thickness: factor on all layers.
        disc: 1 or -1, the side of the optic disc, where the RNFL is thicker.
        choroid: thickness.
    """

    depth: float
    tilt_x: float
    tilt_z: float
    curvature: float
    waves: tuple[tuple[float, float, float, float], ...]
    fovea_x: float
    fovea_z: float
    pit: float
    thickness: float
    disc: int
    choroid: float
    vessels: tuple[Vessel, ...]
    cysts: tuple[Cyst, ...]
    domes: tuple[tuple[str, Dome], ...]

    def mm3(self, fluid: str) -> float:
        """Volume of a fluid, of the shapes themselves."""
        if fluid == "IRF":
            return sum(cyst.mm3 for cyst in self.cysts)
        return sum(dome.mm3 for name, dome in self.domes if name == fluid)

    def membrane(self, x: np.ndarray, z: float) -> np.ndarray:
        """Depth of the lower side of Bruch's membrane."""
        depth = self.depth + self.tilt_x * x + self.tilt_z * z - self.curvature * (x**2 + z**2) / 2
        for height, along_x, along_z, phase in self.waves:
            depth = depth + height * np.sin(along_x * x + along_z * z + phase)
        return depth

    def thicknesses(self, x: np.ndarray, z: float) -> np.ndarray:
        """Thickness of every layer of `LAYERS` in every column, (layers, columns)."""
        from_fovea = np.hypot(x - self.fovea_x, z - self.fovea_z)
        pit = self.pit * np.exp(-((from_fovea / 0.55) ** 2))
        rim = 1 + 0.15 * np.exp(-(((from_fovea - 1.1) / 0.6) ** 2))
        layers = np.array([t * self.thickness * (1 - (1 - factor) * pit) for t, factor, _ in LAYERS.values()])
        layers[:THINNED] *= rim
        layers[0] *= 1 + 0.55 * np.tanh(self.disc * (x - self.fovea_x) / 2)
        for layer in CYST_LAYERS:
            # A smooth maximum, never below any of them.
            swellings = [cyst.swelling(x, z) ** 4 for cyst in self.cysts if cyst.layer == layer]
            layers[NAMES.index(layer)] += np.sum(swellings, axis=0) ** 0.25 if swellings else 0.0
        for name, dome in self.domes:
            layers[NAMES.index(name)] += dome.heights(x, z)
            layers[THINNED] += dome.relief(x, z) - dome.heights(x, z)
        layers[THINNED] = np.maximum(layers[THINNED], 0.015)
        return layers

    def surfaces(self, x: np.ndarray, z: float) -> np.ndarray:
        """Depth of the upper side of every layer, and of the lower side of the last, (layers + 1, columns)."""
        layers = self.thicknesses(x, z)
        above = np.concatenate([np.zeros((1, len(x))), np.cumsum(layers, axis=0)])
        return self.membrane(x, z) - above[-1] + above

    def cyst_spans(self, x: np.ndarray, z: float, surfaces: np.ndarray) -> list[np.ndarray]:
        """Depth of the upper and the lower side of each cyst that this B-scan meets, (2, columns), equal beside it."""
        spans = []
        for cyst in self.cysts:
            half = cyst.half_heights(x, z)
            if half.any():
                top = NAMES.index(cyst.layer)
                middle = (surfaces[top] + surfaces[top + 1]) / 2
                spans.append(np.stack([middle - half, middle + half]).astype(np.float32))
        return spans

    def vessel_strength(self, x: np.ndarray, z: float) -> np.ndarray:
        """1 in the middle of a vessel, 0 between them."""
        return np.max([vessel.strength(x, z) for vessel in self.vessels], axis=0)


def draw_eye(rng: np.random.Generator, fluids: Sequence[str], height: float) -> Eye:
    """Draws an eye with these fluids for B-scans `height` mm deep."""
    fovea_x, fovea_z = rng.uniform(-0.4, 0.4, 2).tolist()
    disc = int(rng.choice((-1, 1)))
    waves = tuple(
        (rng.uniform(0.004, 0.014), rng.uniform(0.6, 1.8), rng.uniform(-1.2, 1.2), rng.uniform(0, 2 * math.pi))
        for _ in range(3)
    )
    domes = []
    if "PED" in fluids:
        domes += [
            ("PED", dome)
            for dome in draw_domes(rng, int(rng.integers(1, 4)), (0.35, 0.9), (0.3, 0.42), 0.7, (fovea_x, fovea_z))
        ]
    if "SRF" in fluids:
        domes += [
            ("SRF", dome)
            for dome in draw_domes(rng, int(rng.integers(1, 3)), (0.55, 1.2), (0.15, 0.22), 1.0, (fovea_x, fovea_z))
        ]
    return Eye(
        depth=min(height - 0.55, rng.uniform(1.30, 1.45)),
        tilt_x=rng.uniform(-0.05, 0.05),
        tilt_z=rng.uniform(-0.03, 0.03),
        curvature=rng.uniform(0.01, 0.07),
        waves=waves,
        fovea_x=fovea_x,
        fovea_z=fovea_z,
        pit=rng.uniform(0.8, 1.0),
        thickness=rng.uniform(0.92, 1.08),
        disc=disc,
        choroid=rng.uniform(0.18, 0.32),
        vessels=draw_vessels(rng, fovea_x),
        cysts=draw_cysts(rng, int(rng.integers(10, 20)), (fovea_x, fovea_z)) if "IRF" in fluids else (),
        domes=tuple(domes),
    )


def draw_domes(
    rng: np.random.Generator,
    count: int,
    radii: tuple[float, float],
    slopes: tuple[float, float],
    power: float,
    fovea: tuple[float, float],
) -> list[Dome]:
    """Up to `count` domes around the fovea that do not touch; heights are their smaller radius x `slopes`, 0.32 at most."""
    domes: list[Dome] = []
    for _ in range(20 * count):
        radius_x, radius_z = rng.uniform(*radii, 2).tolist()
        x, z = (np.array(fovea) + rng.normal(0, 0.8, 2)).clip(-1.6, 1.6).tolist()
        height = min(min(radius_x, radius_z) * rng.uniform(*slopes), 0.32)
        dome = Dome(x, z, radius_x, radius_z, height, power)
        if all(apart(dome, other) for other in domes):
            domes.append(dome)
        if len(domes) == count:
            break
    return domes


def draw_cysts(rng: np.random.Generator, count: int, fovea: tuple[float, float]) -> tuple[Cyst, ...]:
    """Up to `count` cysts around the fovea; those of one layer do not touch."""
    cysts: list[Cyst] = []
    for _ in range(20 * count):
        layer = CYST_LAYERS[int(rng.random() < 0.6)]
        radius_y = rng.uniform(0.035, 0.075) if layer == "INL" else rng.uniform(0.06, 0.13)
        radius_x, radius_z = (radius_y * rng.uniform(1.6, 3.2, 2) + 0.05).tolist()
        x, z = (np.array(fovea) + rng.normal(0, 0.75, 2)).clip(-2.2, 2.2).tolist()
        cyst = Cyst(x, z, radius_x, radius_z, radius_y, layer)
        if all(apart(cyst, other) for other in cysts if other.layer == layer):
            cysts.append(cyst)
        if len(cysts) == count:
            break
    return tuple(cysts)


def apart(one: Dome | Cyst, other: Dome | Cyst) -> bool:
    """Whether two, seen from the front, cannot touch."""
    across = abs(one.x - other.x) / (one.radius_x + other.radius_x)
    along = abs(one.z - other.z) / (one.radius_z + other.radius_z)
    return math.hypot(across, along) > 1


def draw_vessels(rng: np.random.Generator, fovea_x: float) -> tuple[Vessel, ...]:
    """Vessels on both sides of the fovea, which has none."""
    middles = [*rng.uniform(-2.9, fovea_x - 0.6, 3), *rng.uniform(fovea_x + 0.6, 2.9, 3)]
    return tuple(
        Vessel(
            middle,
            math.copysign(rng.uniform(0.0, 0.12), rng.normal()),
            rng.uniform(0.02, 0.15),
            rng.uniform(0.5, 1.5),
            rng.uniform(0, 2 * math.pi),
            rng.uniform(0.022, 0.06),
        )
        for middle in map(float, middles)
    )


def draw_slice(
    eye: Eye, vendor: Vendor, grid: Grid, z: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One B-scan and its reference, both (rows, columns)."""
    x = grid.centred(2)
    depth = ((np.arange(grid.shape[1]) + 0.5) * grid.spacing[1]).astype(np.float32)[:, None]
    surfaces = (eye.surfaces(x, z) + rng.normal(0, MOTION)).astype(np.float32)  # the eye moves between two B-scans
    cysts = eye.cyst_spans(x, z, surfaces)
    brightness = paint(eye, surfaces, cysts, depth, grid, rng)
    add_vessels(brightness, eye.vessel_strength(x, z), surfaces, depth, vendor.shadow)
    return photographed(brightness, vendor, grid, rng), label(surfaces, cysts, depth)


def label(surfaces: np.ndarray, cysts: Sequence[np.ndarray], depth: np.ndarray) -> np.ndarray:
    """The reference (rows, columns): a pixel belongs to what its middle lies in."""
    reference = np.zeros((len(depth), surfaces.shape[1]), np.uint8)
    for name in ("SRF", "PED"):
        top = NAMES.index(name)
        reference[(depth >= surfaces[top]) & (depth < surfaces[top + 1])] = FLUIDS.index(name) + 1
    for upper, lower in cysts:
        reference[(depth >= upper) & (depth < lower)] = FLUIDS.index("IRF") + 1
    return reference


def paint(
    eye: Eye,
    surfaces: np.ndarray,
    cysts: Sequence[np.ndarray],
    depth: np.ndarray,
    grid: Grid,
    rng: np.random.Generator,
) -> np.ndarray:
    """Brightness 0..1 of a B-scan (rows, columns) without speckle; edges are as soft as the optics and the rows make them."""
    edge = max(grid.spacing[1], OPTICAL_BLUR)

    def below(surface: np.ndarray, softness: float = edge) -> np.ndarray:
        return np.clip((depth - surface) / np.float32(softness) + np.float32(0.5), 0, 1)

    levels = [VITREOUS, *(level for _, _, level in LAYERS.values()), CHOROID]
    brightness = np.full((len(depth), surfaces.shape[1]), np.float32(VITREOUS))
    for surface, above, level in zip(surfaces, levels, levels[1:], strict=False):
        brightness += np.float32(level - above) * below(surface)
    brightness *= 1 + np.float32(0.09) * cloud(rng, grid, (0.05, 0.5)) * below(surfaces[0])
    top = NAMES.index("PED")
    brightness += np.float32(0.10) * cloud(rng, grid, (0.05, 0.10)) * (below(surfaces[top]) - below(surfaces[top + 1]))
    # Dark vessels in the choroid, then the sclera; light fades on the way.
    bottom = surfaces[-1]
    in_choroid = below(bottom, 0.03) - below(bottom + eye.choroid, 0.08)
    vessels = np.float32(0.24) * np.clip(cloud(rng, grid, (0.09, 0.16)), -1.2, 0.5)
    brightness += vessels * in_choroid + np.float32(0.06) * below(bottom + eye.choroid, 0.08)
    brightness *= np.exp(-np.clip(depth - bottom, 0, None) / np.float32(0.55))
    for upper, lower in cysts:
        brightness += (CYST - brightness) * (below(upper) - below(lower))
    return brightness


def add_vessels(
    brightness: np.ndarray, strength: np.ndarray, surfaces: np.ndarray, depth: np.ndarray, shadow: float
) -> None:
    """Brightens vessels (strength 0..1 of every column), which lie below the upper layer, and darkens all below them."""
    strength = strength.astype(np.float32)
    middle = surfaces[1]
    in_shadow = np.clip((depth - middle - np.float32(0.02)) / np.float32(0.03), 0, 1)
    brightness *= 1 - np.float32(1 - shadow) * strength * in_shadow
    lumen = np.clip(1.4 * np.exp(-(((depth - middle) / np.float32(0.022)) ** 2) / 2), 0, 1) * strength
    brightness += (np.float32(0.74) - brightness) * lumen


def photographed(brightness: np.ndarray, vendor: Vendor, grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Speckle, which multiplies the reflected light, on a logarithmic scale of grey, as the device stores it."""
    light = np.exp(np.float32(vendor.decades * math.log(10)) * (brightness - 1))
    light += np.float32(10 ** (-vendor.decades * NOISE))
    speckle = rng.standard_gamma(vendor.looks, brightness.shape, dtype=np.float32) / np.float32(vendor.looks)
    light *= softened(softened(speckle, 0), 1)
    shown = 1 + np.log10(light + np.float32(1e-6)) / np.float32(vendor.decades)
    side = 1 - 0.10 * (grid.centred(2) / 3.0) ** 2 + rng.normal(0, 0.012)
    shown = vendor.black + vendor.gain * shown * side.astype(np.float32)
    highest = np.iinfo(vendor.dtype).max
    return (np.clip(shown, 0, 1) * highest).round().astype(vendor.dtype)


def softened(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of neighbours along an axis, weighted 1 2 1, so that a grain is larger than a pixel; edges repeated."""
    padded = np.pad(values, [(1, 1) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
    length = values.shape[axis]
    before, here, after = (padded.take(range(i, i + length), axis) for i in range(3))
    return (before + 2 * here + after) / 4


def cloud(rng: np.random.Generator, grid: Grid, size: tuple[float, float]) -> np.ndarray:
    """Smooth noise (rows, columns) of mean 0, with blobs of `size` (along rows, along columns) in mm."""
    rows, columns = (
        math.ceil(count * mm / length) + 1
        for count, mm, length in zip(grid.shape[1:], grid.spacing[1:], size, strict=True)
    )
    points = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(points.resize(grid.shape[:0:-1], Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Volume:
    """One volume of the phantom: what it is called, where its voxels lie, and what is in it."""

    vendor: Vendor
    case_id: str
    split: str
    grid: Grid
    eye: Eye
    seed: tuple[int, ...]

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """The OCT volume and its reference, both (slices, rows, columns)."""
        oct_voxels = np.empty(self.grid.shape, self.vendor.dtype)
        reference = np.empty(self.grid.shape, np.uint8)
        for index, z in enumerate(self.grid.centred(0).tolist()):
            rng = np.random.default_rng((*self.seed, index))
            oct_voxels[index], reference[index] = draw_slice(self.eye, self.vendor, self.grid, z, rng)
        return oct_voxels, reference


def plan_volumes(per_vendor: int, slices: int | None, size: str, seed: int) -> list[Volume]:
    """All volumes of a phantom; each depends on the seed and its own number alone.

    Args:
        per_vendor: volumes a vendor, 3 to 22.
        slices: B-scans a volume; None for 16 in `small` and the vendor's own number in `full`.
        size: `small` or `full`.
        seed: of everything.
    """
    volumes = []
    for place, vendor in enumerate(VENDORS):
        for number in range(per_vendor):
            rng = np.random.default_rng((seed, place, number))
            grid = draw_grid(vendor, number, slices, size, rng)
            fluids = TURNS[(number + 3 * place) % len(TURNS)]
            eye = draw_eye(rng, fluids, grid.shape[1] * grid.spacing[1])
            case_id = f"PHANTOM{vendor.first_id + number:03d}"
            volumes.append(Volume(vendor, case_id, split_of(number, per_vendor), grid, eye, (seed, place, number)))
    return volumes


def draw_grid(vendor: Vendor, number: int, slices: int | None, size: str, rng: np.random.Generator) -> Grid:
    """Fewer slices, rows or columns lie further apart, so that the field of view stays."""
    rows, row_mm = vendor.rows[number % len(vendor.rows)]
    columns = COLUMNS[size]
    scale = columns / COLUMNS["full"]
    slices = slices or (SMALL_SLICES if size == "small" else vendor.slices)
    stored_rows = round(rows * scale)
    spacing = (
        rng.uniform(*vendor.slice_mm) * vendor.slices / slices,
        row_mm * rows / stored_rows,
        rng.uniform(*vendor.column_mm) / scale,
    )
    return Grid((slices, stored_rows, columns), tuple(float(f"{mm:.6g}") for mm in spacing))


def split_of(number: int, per_vendor: int) -> str:
    """Of a vendor's volumes an eighth, but at least one, is for validation, a third for testing."""
    validation = max(1, per_vendor // 8)
    test = per_vendor // 3
    return "validation" if number < validation else "test" if number < validation + test else "train"


def write_metaimage(path: Path, voxels: np.ndarray, spacing: Sequence[float]) -> None:
    """Writes `path` (.mhd) and the .raw beside it, as the challenge's archives hold them."""
    element = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT"}[str(voxels.dtype)]
    lines = (
        "ObjectType = Image",
        "NDims = 3",
        "Comment = PHANTOM, drawn by a computer, no patient",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = 0 0 0",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        "ElementSpacing = " + " ".join(f"{mm:g}" for mm in reversed(spacing)),
        "DimSize = " + " ".join(str(count) for count in reversed(voxels.shape)),
        f"ElementType = {element}",
        f"ElementDataFile = {path.stem}.raw",
    )
    path.with_suffix(".raw").write_bytes(voxels.astype(voxels.dtype.newbyteorder("<")).tobytes())
    path.write_text("\n".join(lines) + "\n")


def write_phantom(volumes: Sequence[Volume], folder: Path) -> None:
    """Writes every volume, `truth.csv` and `splits.csv`."""
    truth = []
    for volume in volumes:
        place = folder / f"PHANTOM-RETOUCH-TrainingSet-{volume.vendor.name}" / volume.case_id
        place.mkdir(parents=True)
        oct_voxels, reference = volume.draw()
        write_metaimage(place / "oct.mhd", oct_voxels, volume.grid.spacing)
        write_metaimage(place / "reference.mhd", reference, volume.grid.spacing)
        truth.append(truth_row(volume, reference))
    write_table(folder / "truth.csv", truth)
    write_table(folder / "splits.csv", [{"case_id": volume.case_id, "split": volume.split} for volume in volumes])


def truth_row(volume: Volume, reference: np.ndarray) -> dict[str, str | int]:
    """`NAME_mm3` is counted, voxels x spacing, which a prediction can reach; `NAME_analytic_mm3` is that of the shapes."""
    voxel = math.prod(volume.grid.spacing)
    counts = np.bincount(reference.ravel(), minlength=len(FLUIDS) + 1)[1:].tolist()
    return {
        "case_id": volume.case_id,
        "vendor": volume.vendor.name,
        "split": volume.split,
        **{f"{fluid}_mm3": f"{count * voxel:.6g}" for fluid, count in zip(FLUIDS, counts, strict=True)},
        **{f"{fluid}_analytic_mm3": f"{volume.eye.mm3(fluid):.6g}" for fluid in FLUIDS},
    }


def write_table(path: Path, rows: Sequence[dict[str, str | int]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def is_phantom(folder: Path) -> bool:
    """Whether a folder holds a phantom, which may be replaced."""
    return (folder / "truth.csv").is_file() and any(folder.glob("PHANTOM-*"))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Ends the process after a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write")
    add("--volumes-per-vendor", type=int, default=9, help=f"3 to {MOST_VOLUMES} (default: 9)")
    add("--slices", type=int, help="B-scans a volume (default: 16; with --size full the vendor's own number)")
    add(
        "--size",
        choices=list(COLUMNS),
        default="small",
        help="small: 192 columns (default); full: the challenge's sizes",
    )
    add("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    add("--overwrite", action="store_true", help="replace the phantom in --output")
    given = parser.parse_args(arguments)
    if not 3 <= given.volumes_per_vendor <= MOST_VOLUMES:
        parser.error(f"--volumes-per-vendor is {given.volumes_per_vendor}; expected 3 to {MOST_VOLUMES}")
    if given.slices is not None and given.slices < 1:
        parser.error(f"--slices is {given.slices}; expected 1 or more")
    if given.seed < 0:
        parser.error(f"--seed is {given.seed}; expected 0 or more")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after one line on stderr."""
    given = parse(sys.argv[1:] if argv is None else argv)
    volumes = plan_volumes(given.volumes_per_vendor, given.slices, given.size, given.seed)
    try:
        with finished_folder(given.output, given.overwrite, "OCT phantom", is_phantom) as folder:
            write_phantom(volumes, folder)
    except BadInputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{given.output}: {len(volumes)} volumes of the OCT PHANTOM; see truth.csv\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
