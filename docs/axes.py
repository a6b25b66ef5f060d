"""Draws web/docs/axes.jpg, the picture of the conventions: python docs/axes.py"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

RED, GREEN, BLUE, ORANGE, GREY, INK = "#d62728", "#2ca02c", "#1f77b4", "#e07b00", "#8a8a8a", "#222222"
# The page looks at the scene from behind, above and to the right of the first camera; columns are what x (right),
# y (down) and z (forward) move on the page, in pixels.
PROJECTION = np.array([[150.0, 0.0, 105.0], [32.0, 150.0, -62.0]])

page = Image.new("RGB", (1240, 520), "white")
draw = ImageDraw.Draw(page)
font, small = ImageFont.load_default(20), ImageFont.load_default(16)


def place(point) -> tuple[float, float]:
    x, y = PROJECTION @ np.asarray(point, float) + (150, 270)
    return x, y


def arrow(start, end, color, name):
    (ax, ay), (bx, by) = place(start), place(end)
    along = np.array([bx - ax, by - ay]) / np.hypot(bx - ax, by - ay)
    across = np.array([-along[1], along[0]])
    tip = np.array([bx, by])
    draw.line([(ax, ay), tuple(tip - 8 * along)], fill=color, width=4)
    draw.polygon([tuple(tip), tuple(tip - 14 * along + 6 * across), tuple(tip - 14 * along - 6 * across)], fill=color)
    draw.text(tuple(tip + 12 * along), name, fill=color, font=font, anchor="mm")


def camera(c2w, color, name, labels):
    """A pyramid of the image plane, and the axes: the columns of c2w."""
    R, centre = c2w[:3, :3], c2w[:3, 3]
    corners = [centre + R @ (x, y, 0.75) for x, y in ((-0.5, -0.34), (0.5, -0.34), (0.5, 0.34), (-0.5, 0.34))]
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        draw.line([place(a), place(b)], fill=color, width=2)
        draw.line([place(centre), place(a)], fill=color, width=2)
    for column, (axis, words) in enumerate(zip((RED, GREEN, BLUE), labels, strict=True)):
        arrow(centre, centre + R[:, column] * (0.9, 0.8, 1.25)[column], axis, words)
    draw.text(tuple(np.add(place(centre), (-12, 24))), name, fill=color, font=font, anchor="rm")


first = np.eye(4)
second = np.eye(4)
angle = np.radians(-40)
second[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
second[:3, 3] = 2.55, -0.1, 0.1

draw.text((30, 30), "c2w: a camera's axes and place in the world", fill=INK, font=font)
draw.text((30, 60), "columns: x right, y down, z forward, centre", fill=GREY, font=small)
camera(first, ORANGE, "source", ("x", "y", "z"))
camera(second, BLUE, "target", ("x", "y", "z"))
draw.line([place(first[:3, 3]), place(second[:3, 3])], fill=GREY, width=1)
draw.text(place((1.2, 0.42, 0)), "in the units of the given cameras", fill=GREY, font=small, anchor="mm")

left, top, step, columns, rows = 800, 130, 62, 6, 4
right, bottom = left + columns * step, top + rows * step
draw.text((left - 20, 30), "K: pixels, counted from the image's corner", fill=INK, font=font)
draw.text((left - 20, 60), "here 6 x 4 pixels", fill=GREY, font=small)
for column in range(columns + 1):
    draw.line([(left + column * step, top), (left + column * step, bottom)], fill="#c8c8c8")
for row in range(rows + 1):
    draw.line([(left, top + row * step), (right, top + row * step)], fill="#c8c8c8")


def dot(u, v, color, text, anchor, offset):
    x, y = left + u * step, top + v * step
    draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=color)
    draw.text((x + offset[0], y + offset[1]), text, fill=color, font=small, anchor=anchor)


dot(0, 0, INK, "(0, 0)", "rb", (-4, -6))
dot(columns, rows, INK, "(W, H) = (6, 4)", "rt", (0, 12))
dot(0.5, 0.5, ORANGE, "(0.5, 0.5), a pixel's middle", "lm", (12, 0))
dot(columns / 2, rows / 2, BLUE, "(W/2, H/2), the image's middle", "mt", (0, 14))
draw.text((left + 60, top - 16), "u, right", fill=RED, font=small, anchor="lm")
draw.line([(left + 8, top - 16), (left + 52, top - 16)], fill=RED, width=3)
draw.text((left - 12, top + 96), "v, down", fill=GREEN, font=small, anchor="rm")
draw.line([(left - 16, top + 30), (left - 16, top + 80)], fill=GREEN, width=3)
draw.text((left - 20, bottom + 60), "u = fx x/z + cx     v = fy y/z + cy", fill=INK, font=font, anchor="lm")

page.save(Path(__file__).parents[1] / "web/docs/axes.jpg", quality=88)
