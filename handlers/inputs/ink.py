"""One figure on a plain ground, brought onto the raster on which the handwritten digits were collected.

Those digits were scaled to a common height, given about the same mass of ink and counted into 8 x 8 cells
(NIST's form-based normalisation, then the counting of Alpaydin and Kaynak 1998). `centre_ink` does the same
to whatever a caller sends: drawn, printed or photographed, dark on light or light on dark, of any size. It
reads one figure: two side by side are squeezed into one raster. `raster_view` says which part of the picture
the raster covers. Pillow and numpy only, so that it runs wherever TorchServe does.
"""

import numpy as np
from PIL import Image, ImageFilter

from ..protocol.errors import BadRequest

CELLS = 8  # the raster of the digits
FINE = 8  # pixels per cell while the strokes are measured
SIDE = CELLS * FINE  # of the fine raster
WIDEST = 6.5  # cells; 97 of 100 figures of the raster are 5 to 7 wide
LIGHTEST, HEAVIEST = 15.0, 24.0  # cells full of ink; 9 of 10 figures of the raster lie between
WORKING = 192  # longest side in pixels of a picture in which the figure is searched
LEAST_CONTRAST = 14.0  # of 255: fainter is no ink
BLANK = (
    "no ink was found in the picture; send one figure, drawn in one tone on a plain ground with some room "
    "around it"
)


def centre_ink(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The figure of `image` (any mode) as light ink on dark, mode L, `size` = (width, height) in pixels.

    A picture of 8 x 8 pixels is on the raster already: only its polarity and contrast are set.
    Raises BadRequest when the picture is blank.
    """
    grey = image if image.mode == "L" else image.convert("L")
    cells = _stretched(grey) if grey.size == (CELLS, CELLS) else _on_raster(_figure(_reduced(grey))[0])
    return cells.resize(size, Image.Resampling.BICUBIC)


def raster_view(image: Image.Image) -> tuple[float, float, float, float]:
    """The part of `image` (left, top, right, bottom, in its pixels) that `centre_ink` brings onto the raster.

    It has margins round the figure and may reach beyond the picture. Raises BadRequest when the picture is
    blank.
    """
    if image.size == (CELLS, CELLS):
        return (0.0, 0.0, float(CELLS), float(CELLS))
    reduced = _reduced(image if image.mode == "L" else image.convert("L"))
    figure, (column, row) = _figure(reduced)
    left, top, width, height = _place(figure)
    # pixels of the picture per pixel of `reduced`
    across, down = image.width / reduced.width, image.height / reduced.height
    # and per pixel of the fine raster
    x_step, y_step = across * figure.width / width, down * figure.height / height
    x, y = column * across - left * x_step, row * down - top * y_step
    return (x, y, x + SIDE * x_step, y + SIDE * y_step)


def _reduced(grey: Image.Image) -> Image.Image:
    """At most WORKING pixels a side; pixels that fall together are averaged, so that a thin stroke fades
    but stays.
    """
    factor = max(grey.size) / WORKING
    if factor <= 1:
        return grey
    size = (max(1, round(grey.width / factor)), max(1, round(grey.height / factor)))
    return grey.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _stretched(grey: Image.Image) -> Image.Image:
    values = np.asarray(grey, np.float32)
    ink = _towards_ink(values - np.median(_border(values)))
    if ink.max() < LEAST_CONTRAST:
        raise BadRequest(BLANK)
    return Image.fromarray(np.round(ink * (255 / ink.max())).astype(np.uint8))


def _figure(grey: Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """(how much of each pixel is ink, 0..255, cropped to the figure; the column and the row at which it
    was cropped).
    """
    values = np.asarray(grey, np.float32)
    ground, noise = _ground(values)
    ink = _towards_ink(values - ground)
    threshold = _otsu(ink)
    inked = ink > threshold
    if not inked.any() or ink[inked].mean() - ink[~inked].mean() < max(LEAST_CONTRAST, 4 * noise):
        raise BadRequest(BLANK)
    coverage = np.clip(ink / threshold - 0.5, 0, 1) * _main_parts(inked)
    rows, columns = (np.flatnonzero((coverage > 0.5).any(axis)) for axis in (1, 0))
    figure = coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Image.fromarray(np.round(figure * 255).astype(np.uint8)), (int(columns[0]), int(rows[0]))


def _border(values: np.ndarray) -> np.ndarray:
    edge = 1 + min(values.shape[:2]) // 40
    inner = np.zeros(values.shape[:2], bool)
    inner[edge:-edge, edge:-edge] = True
    chosen: np.ndarray = values[~inner]
    return chosen


def _ground(values: np.ndarray) -> tuple[np.ndarray, float]:
    """(paper under uneven light: a quadratic surface [H, W] through the border; the paper's noise), in grey
    levels.

    Least absolute deviations by reweighting, so that ink that touches the border doesn't bend the surface;
    `stiff` keeps it from arching over ink that touches two opposite sides.
    """
    height, width = values.shape
    y, x = np.meshgrid(
        np.linspace(-1, 1, height, dtype=np.float32),
        np.linspace(-1, 1, width, dtype=np.float32),
        indexing="ij",
    )
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    levels, known = _border(values), _border(terms)
    stiff = len(levels) * np.diag(np.array([0, 0.001, 0.001, 0.01, 0.01, 0.01], np.float32))
    weights = np.ones_like(levels)
    for _ in range(8):
        weighted = known * weights[:, None]
        surface = np.linalg.solve(weighted.T @ known + stiff, weighted.T @ levels)
        distance = np.abs(levels - known @ surface)
        weights = 1 / np.maximum(distance, 1.0)
    # of normal noise 3 in 10 lie within 0.385 deviations; the median would be ink where a tight crop has ink
    # on half its border
    return terms @ surface, float(np.quantile(distance, 0.3)) / 0.385


def _towards_ink(difference: np.ndarray) -> np.ndarray:
    """The side of the ground on which the ink lies, as positive values; far outliers decide, and those are
    ink.
    """
    ink: np.ndarray = np.maximum(
        difference if (difference.astype(np.float64) ** 3).sum() > 0 else -difference, 0
    )
    return ink


def _otsu(ink: np.ndarray) -> float:
    """The level that parts ink and ground best (Otsu 1979: largest variance between the two classes)."""
    counts, edges = np.histogram(ink, bins=64, range=(0, max(float(ink.max()), 1e-3)))
    levels = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    first, total = np.cumsum(counts * levels), float((counts * levels).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (first / below - (total - first) / above) ** 2
    return float(edges[1 + int(np.argmax(np.nan_to_num(between)))])


def _main_parts(inked: np.ndarray) -> np.ndarray:
    """A mask of the largest connected part and of those with a tenth of its ink at least: no specks, no dust.

    Parts are told apart on a coarse grid, which also bridges gaps in a broken stroke.
    """
    step = max(1, -(-max(inked.shape) // 48))
    rows, columns = (-(-side // step) for side in inked.shape)
    padded = np.zeros((rows * step, columns * step), bool)
    padded[: inked.shape[0], : inked.shape[1]] = inked
    mass = padded.reshape(rows, step, columns, step).sum((1, 3))
    labels = np.where(mass > 0, np.arange(1, mass.size + 1).reshape(mass.shape), 0)
    framed = np.zeros((rows + 2, columns + 2), labels.dtype)
    while True:  # the highest label of a part spreads over it
        framed[1:-1, 1:-1] = labels
        tall = np.maximum(np.maximum(framed[:-2], framed[1:-1]), framed[2:])
        spread = np.maximum(np.maximum(tall[:, :-2], tall[:, 1:-1]), tall[:, 2:]) * (mass > 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    masses = np.bincount(labels.ravel(), weights=mass.ravel())
    kept = (masses >= masses.max() / 10)[labels] & (labels > 0)
    mask: np.ndarray = kept.repeat(step, 0).repeat(step, 1)[: inked.shape[0], : inked.shape[1]]
    return mask


def _place(figure: Image.Image) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the cropped figure on the fine raster: of its height, or as wide as
    figures are, in the middle.
    """
    scale = FINE * min(CELLS / figure.height, WIDEST / figure.width)
    width, height = (max(1, round(side * scale)) for side in figure.size)
    return ((SIDE - width) // 2, (SIDE - height) // 2, width, height)


def _on_raster(figure: Image.Image) -> Image.Image:
    """The cropped figure at the raster's height and in its middle, its strokes as heavy as those of the
    raster, 8 x 8.
    """
    left, top, width, height = _place(figure)
    raster = Image.new("L", (SIDE, SIDE))
    raster.paste(figure.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    for _ in range(6):
        ink = np.asarray(raster).sum() / (255 * FINE * FINE)
        if LIGHTEST <= ink <= HEAVIEST:
            break
        raster = raster.filter(ImageFilter.MaxFilter(3) if ink < LIGHTEST else ImageFilter.MinFilter(3))
    return raster.reduce(FINE)
