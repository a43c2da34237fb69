"""What is drawn for a photograph, by its settings as a whole."""

from unimatch.keyed import Draws
from unimatch.views import colors, crop
from unimatch.views.natural import ViewConfig


def draw_geometry(draws: Draws, config: ViewConfig, width: int, height: int) -> crop.Geometry:
    return crop.draw_geometry(draws, width, height, config.crop, config.scale, config.flip)


def draw_colors(draws: Draws, config: ViewConfig) -> colors.Colors:
    return colors.draw_colors(draws, config.jitter, config.gray, config.blur)
