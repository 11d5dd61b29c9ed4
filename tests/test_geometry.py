"""Boxes are in the upload's own pixels, whatever the processor and EXIF do to it."""

from __future__ import annotations

import pytest
import torch
from conftest import build_model
from PIL import Image, ImageDraw

import vtprune
from vtprune.backbones.geometry import View, overlap, patch_boxes, view_of
from vtprune.images import open_image

SIZES = [(40, 40), (90, 60), (60, 90), (33, 264), (264, 33), (17, 23), (401, 399)]
VARIANTS = {
    "crop": {},
    "pad": {"pad": True},
    "squeeze": {"size": {"height": 40, "width": 40}},
    "cut": {"size": {"shortest_edge": 56}},
    "border": {"size": {"shortest_edge": 28}},
}


@pytest.fixture(scope="module", params=VARIANTS)
def backbone(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    build_model(folder, mixing=0.01, **VARIANTS[request.param])
    return vtprune.load(folder).backbone


def changes(backbone, image):
    """[N]: how much each token differs from that of a black picture."""
    black = Image.new("RGB", image.size)
    seen = [backbone.encode(backbone.prepare([picture], "what?")).features for picture in (image, black)]
    return (seen[0] - seen[1]).norm(dim=1)


def middle(box, share=0.5):
    """The middle of a box as whole pixels, at least one."""
    x0, y0, x1, y1 = box.tolist()
    dx, dy = (x1 - x0) * (1 - share) / 2, (y1 - y0) * (1 - share) / 2
    left, top = int(x0 + dx), int(y0 + dy)
    return left, top, max(left, int(x1 - dx) - 1), max(top, int(y1 - dy) - 1)


@pytest.mark.parametrize("size", SIZES)
def test_a_bright_cell_changes_the_token_whose_box_holds_it(backbone, size):
    (segment,) = backbone.prepare([Image.new("RGB", size)], "what?").segments
    assert segment.length == 25 and segment.grid == (5, 5) and segment.boxes.shape == (25, 4)
    seen = [i for i, box in enumerate(segment.boxes) if (box[2] - box[0]) * (box[3] - box[1]) > 0]
    width, height = (segment.boxes[seen, 2:] - segment.boxes[seen, :2]).amax(0).tolist()
    for token in (seen[0], seen[len(seen) // 2], seen[-1]):
        box = segment.boxes[token]
        if box[2] - box[0] < 0.9 * width or box[3] - box[1] < 0.9 * height:
            continue  # a sliver at the border, too thin to outweigh its neighbours
        image = Image.new("RGB", size)
        ImageDraw.Draw(image).rectangle(middle(box), fill="white")
        assert int(changes(backbone, image).argmax()) == token


def test_exif_rotation_is_part_of_the_geometry(backbone, tmp_path):
    upright = (90, 60)
    (segment,) = backbone.prepare([Image.new("RGB", upright)], "what?").segments
    token = 11
    image = Image.new("RGB", upright)
    ImageDraw.Draw(image).rectangle(middle(segment.boxes[token]), fill="white")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.size == upright
    assert int(changes(backbone, opened).argmax()) == token


@pytest.mark.parametrize("size", SIZES)
def test_boxes_lie_inside_the_upload_and_do_not_overlap(backbone, size):
    (segment,) = backbone.prepare([Image.new("RGB", size)], "what?").segments
    boxes = segment.boxes
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= size[0]).all() and (boxes[:, [1, 3]] <= size[1]).all()
    shares = overlap(boxes, boxes)
    real = (boxes[:, 2:] > boxes[:, :2]).all(1)
    assert torch.allclose(shares[real][:, real], torch.eye(int(real.sum())), atol=1e-4)


def test_padding_tokens_have_an_empty_box(tmp_path):
    build_model(tmp_path, pad=True)
    (segment,) = vtprune.load(tmp_path).backbone.prepare([Image.new("RGB", (100, 20))], "what?").segments
    empty = (segment.boxes == 0).all(1)
    assert empty.reshape(5, 5)[:, 0].tolist() == [True, True, False, True, True]


def test_centre_crop_shows_what_is_lost():
    class Processor:
        do_resize = do_center_crop = True
        size = {"shortest_edge": 40}  # noqa: RUF012
        crop_size = {"height": 40, "width": 40}  # noqa: RUF012

    view = view_of(Processor(), 80, 40)
    boxes = patch_boxes(view, (5, 5), (8, 8), (80, 40))
    assert boxes[:, 0].min() == 20 and boxes[:, 2].max() == 60


def test_unknown_resize_rule_is_named():
    class Processor:
        do_resize = True
        size = {"max_height": 40, "max_width": 40}  # noqa: RUF012

    with pytest.raises(ValueError, match="max_height"):
        view_of(Processor(), 80, 40)


def test_overlap_is_weighted_by_area():
    cells = patch_boxes(View((1.0, 1.0), (0.0, 0.0), (4, 4)), (2, 2), (2, 2), (4, 4))
    boxes = torch.tensor([[1.0, 0, 3, 1], [0, 0, 4, 4], [0, 0, 0, 0], [0, 0, 3, 2]])
    expected = torch.tensor([[0.5, 0.5, 0, 0], [0.25] * 4, [0] * 4, [2 / 3, 1 / 3, 0, 0]])
    assert torch.allclose(overlap(boxes, cells), expected)
