from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from delf_tf import synthetic
from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.datasets.images import read_image
from delf_tf.synthetic import collection, geometry, raster, textures
from delf_tf.synthetic.geometry import Camera, Face
from delf_tf.synthetic.textures import Texture
from tests.synthetic import view_pairs

SIZE = (120, 160)


def flat(colour):
    return Texture.of(Image.new("RGB", (16, 16), colour))


def wall(colour, z, x=-10, width=20, **options):
    """A wall from the ground to 10 m that faces +z."""
    corner, across, down = (
        np.array([x, 10.0, z]),
        np.array([width, 0.0, 0]),
        np.array([0, -10.0, 0]),
    )
    return Face(corner, across, down, flat(colour), **options)


def render(camera, faces):
    seen = raster.find_visible(camera, faces)
    return seen, raster.paint(camera, faces, seen, np.zeros((camera.height, camera.width, 3)))


# Geometry and rendering, by hand.

AHEAD = Camera.looking_at((0, 5, 20), (0, 5, 0), view_angle=np.pi / 2, size=(101, 101))


def test_projection_by_hand():
    pixels, depths = AHEAD.project(np.array([(0, 5, 0), (10, 5, 0), (0, 15, 0), (0, 5, 30)]))
    # The focal length of a right angle across 101 pixels is 50.5.
    np.testing.assert_allclose(pixels[:3], [(50, 50), (75.25, 50), (50, 24.75)], atol=1e-9)
    np.testing.assert_allclose(depths, [20, 20, 20, -10])


def test_roll_turns_the_camera_clockwise():
    camera = Camera.looking_at((0, 5, 20), (0, 5, 0), roll=np.pi / 2, view_angle=1, size=(99, 99))
    pixels, _ = camera.project(np.array([(0, 7, 0)]))
    assert pixels[0, 0] < 48
    assert pixels[0, 1] == pytest.approx(49)


def test_near_hides_far_whatever_the_order():
    near, far = wall((200, 0, 0), 5, x=-3, width=6), wall((0, 200, 0), 0)
    for faces in ([near, far], [far, near]):
        seen, image = render(AHEAD, faces)
        assert image[50, 50].tolist() == [200, 0, 0]
        assert image[50, 30].tolist() == [0, 200, 0]
        assert image[5, 50].tolist() == [0, 0, 0]
        assert seen.inverse_depth[50, 50] == pytest.approx(1 / 15)
        assert seen.inverse_depth[50, 30] == pytest.approx(1 / 20)
        assert seen.face[5, 50] == -1


def test_backs_and_what_lies_behind_are_not_drawn():
    turned = Camera.looking_at((0, 5, -20), (0, 5, 0), view_angle=1, size=SIZE)
    assert (render(turned, [wall((9, 9, 9), 0)])[0].face == -1).all()
    away = Camera.looking_at((0, 5, 20), (0, 5, 40), view_angle=1, size=SIZE)
    assert (render(away, [wall((9, 9, 9), 0)])[0].face == -1).all()


def test_a_floor_through_the_cameras_plane():
    floor = Face(
        np.array([-50.0, 0, -50]), np.array([100.0, 0, 0]), np.array([0, 0, 100.0]), flat((7, 7, 7))
    )
    seen, _ = render(AHEAD, [floor])
    assert (seen.face[60:] == 0).all()
    assert (seen.face[:50] == -1).all()
    assert seen.inverse_depth[100, 50] == pytest.approx(1 / 5.05, rel=1e-3)


def test_edges_cut_faces():
    gable = render(AHEAD, [wall((9, 9, 9), 0, edges=geometry.GABLE)])[0].face
    whole = render(AHEAD, [wall((9, 9, 9), 0)])[0].face
    assert (gable == 0).sum() == pytest.approx((whole == 0).sum() / 2, rel=0.05)
    assert gable[60, 50] == 0
    assert gable[40, 30] == -1
    blunt = render(AHEAD, [wall((9, 9, 9), 0, edges=geometry.trapezoid(0.25))])[0].face
    assert (blunt == 0).sum() == pytest.approx((whole == 0).sum() * 0.75, rel=0.05)


def test_textures_lie_where_the_homography_says():
    ramp = np.zeros((64, 128, 3), np.uint8)
    ramp[..., 0] = np.arange(128) * 2
    ramp[..., 1] = np.arange(64)[:, None] * 4
    face = wall((0, 0, 0), 0)
    face = Face(face.origin, face.across, face.down, Texture((ramp,)))
    camera = Camera.looking_at((6, 4, 14), (0, 5, 0), roll=0.1, view_angle=0.9, size=SIZE)
    seen, image = render(camera, [face])
    y, x = np.nonzero(seen.face == 0)
    a, b, c = camera.pixels_to_faces([face])[0] @ np.stack([x, y, np.ones_like(x)])
    u, v = a / c, b / c
    inner = (np.abs(u - 0.5) < 0.48) & (np.abs(v - 0.5) < 0.48)
    np.testing.assert_allclose(image[y, x, 0][inner], (u * 256 - 1)[inner], atol=0.02)
    np.testing.assert_allclose(image[y, x, 1][inner], (v * 256 - 2)[inner], atol=0.02)


def test_distant_textures_are_averaged():
    noise = np.random.default_rng(0).integers(0, 2, (256, 256, 1), np.uint8) * 255
    face = wall((0, 0, 0), 0)
    texture = Texture.of(Image.fromarray(np.repeat(noise, 3, axis=2)))
    face = Face(face.origin, face.across, face.down, texture, repeat=(4, 4))
    far = Camera.looking_at((0, 5, 200), (0, 5, 0), view_angle=0.5, size=SIZE)
    seen, image = render(far, [face])
    assert (seen.face == 0).sum() > 30
    assert image[seen.face == 0].std() < 30


# Landmarks.


def test_views_are_deterministic_and_differ():
    first = synthetic.render_view(3, 1, SIZE)
    assert first.shape == (*SIZE, 3)
    assert first.dtype == np.uint8
    synthetic.render_view(4, 0, SIZE)
    np.testing.assert_array_equal(synthetic.render_view(3, 1, SIZE), first)
    for other in (
        synthetic.render_view(3, 2, SIZE),
        synthetic.render_view(4, 1, SIZE),
        synthetic.render_view(3, 1, SIZE, style_seed=5),
        synthetic.render_landscape(3, SIZE),
    ):
        assert np.abs(other.astype(int) - first).mean() > 8


def test_another_process_renders_the_same():
    script = (
        "import hashlib; from delf_tf import synthetic\n"
        f"print(hashlib.sha256(synthetic.render_view(3, 1, {SIZE}).tobytes()).hexdigest())\n"
        "import sys; assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    import hashlib

    view = synthetic.render_view(3, 1, SIZE)
    assert done.stdout.strip() == hashlib.sha256(view.tobytes()).hexdigest()


def test_views_stay_what_they_were(repository):
    """Across machines and stacks, but for the last bit of floating point."""
    golden = np.load(repository / "tests" / "golden" / "synthetic_views.npz")
    for seed in range(len(golden["views"])):
        view = synthetic.render_view(seed, seed, (48, 64)).astype(int)
        assert np.abs(view - golden["views"][seed]).mean() < 0.5, seed


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_every_kind_is_built_and_seen(kind):
    seed = next(seed for seed in range(400) if kind_of(seed) == kind)
    landmark = synthetic.build_landmark(seed)
    assert landmark.kind == kind
    assert sum(face.is_facade for face in landmark.faces) == 1
    camera = Camera.looking_at(
        (0, 3, 1.6 * landmark.width), (0, landmark.height / 3, 0), view_angle=1.0, size=SIZE
    )
    seen, image = render(camera, landmark.faces)
    facade = next(at for at, face in enumerate(landmark.faces) if face.is_facade)
    assert (seen.face == facade).mean() > 0.02
    assert image.std() > 10
    assert landmark.facade.normal.tolist() == [0, 0, 1]


def kind_of(seed):
    rng = np.random.default_rng([11, seed])
    return list(synthetic.KINDS)[int(rng.integers(len(synthetic.KINDS)))]


def test_near_duplicates_share_the_style_not_the_place():
    model, copy = synthetic.build_landmark(8), synthetic.build_landmark(900, style_seed=8)
    assert model.kind == copy.kind
    assert (model.width, model.height) != (copy.width, copy.height)


def test_most_views_show_the_facade():
    shares = [
        view_pairs.view_geometry(seed, view, (60, 80)).facade_mask.mean()
        for seed in range(6)
        for view in range(4)
    ]
    assert np.mean(np.array(shares) > 0.01) > 0.75


def test_views_are_usable_photographs():
    for seed in range(12):
        view = synthetic.render_view(seed, 100 + seed, SIZE)
        assert 20 < view.mean() < 240
        assert view.std() > 12


@pytest.mark.parametrize(
    "arguments", [(-1, 0), (0, -1), (0, 0, (8, 100)), (0, 0, (100, 5000)), (0, 0, (100,))]
)
def test_bad_arguments(arguments):
    with pytest.raises(InputError, match="must be"):
        synthetic.render_view(*arguments)


# Exact geometry between views.


def test_facade_homography_agrees_with_depth():
    first, second = (view_pairs.view_geometry(5, view, SIZE) for view in (1, 2))
    between = view_pairs.facade_homography(5, 1, 2, SIZE)
    y, x = np.nonzero(first.facade_mask)
    assert y.size > 50
    moved = between @ np.stack([x, y, np.ones_like(x)])
    moved = (moved[:2] / moved[2]).T
    found, visible = view_pairs.correspond(first, second, np.stack([y, x], axis=1))
    assert visible.sum() > 30
    # Depth is kept in float32.
    np.testing.assert_allclose(found[:, ::-1][visible], moved[visible], atol=0.02)


def test_homographies_compose():
    there, back = (view_pairs.facade_homography(5, *pair, SIZE) for pair in ((0, 3), (3, 0)))
    round_trip = there @ back
    np.testing.assert_allclose(round_trip / round_trip[2, 2], np.eye(3), atol=1e-8)
    np.testing.assert_allclose(view_pairs.facade_homography(5, 2, 2, SIZE), np.eye(3), atol=1e-9)


def test_the_facades_frame_is_the_homographys():
    first, second = (view_pairs.view_geometry(5, view, SIZE) for view in (1, 2))
    between = second.facade_to_pixels @ np.linalg.inv(first.facade_to_pixels)
    want = view_pairs.facade_homography(5, 1, 2, SIZE)
    np.testing.assert_allclose(between / between[2, 2], want, rtol=1e-6, atol=1e-9)


def test_correspond_with_itself_and_with_nothing():
    view = view_pairs.view_geometry(5, 1, SIZE)
    y, x = np.nonzero(view.inverse_depth > 0)
    locations = np.stack([y, x], axis=1)[::37]
    found, visible = view_pairs.correspond(view, view, locations)
    np.testing.assert_allclose(found, locations, atol=1e-3)
    assert visible.all()
    found, visible = view_pairs.correspond(view, view, np.zeros((0, 2)))
    assert found.shape == (0, 2)
    assert visible.shape == (0,)
    outside = np.array([(-5.0, 0), (0, 1e6), (119.6, 10)])
    assert not view_pairs.correspond(view, view, outside)[1].any()


def test_matched_pixels_look_alike():
    """Patches at corresponding points correlate; patches at other points do not."""
    first, second = (view_pairs.view_geometry(1, view) for view in (3, 7))
    images = [
        cv2.cvtColor(synthetic.render_view(1, view), cv2.COLOR_RGB2GRAY).astype(np.float32)
        for view in (3, 7)
    ]
    between = view_pairs.facade_homography(1, 3, 7)
    warped = cv2.warpPerspective(images[0], between, (640, 480))
    inside = cv2.warpPerspective(first.facade_mask.astype(np.uint8), between, (640, 480)) > 0
    shown = inside & second.facade_mask
    assert shown.mean() > 0.05
    right = np.corrcoef(warped[shown], images[1][shown])[0, 1]
    wrong = np.corrcoef(np.roll(warped, 23, axis=1)[shown], images[1][shown])[0, 1]
    assert right > 0.5
    assert right > wrong + 0.3


# How hard it is.


def features(sift, view):
    keypoints, descriptors = sift.detectAndCompute(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    points = np.array([keypoint.pt for keypoint in keypoints], np.float32)
    return points, np.sqrt(descriptors / (descriptors.sum(1, keepdims=True) + 1e-6))


def count_inliers(first, second):
    if min(len(first[0]), len(second[0])) < 2:
        return 0
    pairs = cv2.BFMatcher().knnMatch(first[1], second[1], k=2)
    pairs = [one for one, two in pairs if one.distance < 0.8 * two.distance]
    if len(pairs) < 5:
        return 0
    source = first[0][[pair.queryIdx for pair in pairs]]
    target = second[0][[pair.trainIdx for pair in pairs]]
    mask = cv2.findHomography(source, target, cv2.USAC_ACCURATE, 6.0)[1]
    return 0 if mask is None else int(mask.sum())


@pytest.mark.slow
def test_neither_trivial_nor_impossible():
    sift = cv2.SIFT_create(800)
    num = 12
    found = [
        [features(sift, synthetic.render_view(seed, view, (360, 480))) for view in range(4)]
        for seed in range(num)
    ]
    same = [count_inliers(views[0], view) for views in found for view in views[1:]]
    other = [
        count_inliers(views[0], view)
        for seed, views in enumerate(found)
        for view in found[(seed + 1) % num]
    ]
    threshold = np.percentile(other, 98)
    matched = np.mean(np.array(same) > threshold)
    assert 0.3 < matched < 0.9
    assert np.median(same) > 1.5 * np.median(other)


# Collections.


def test_write_collection(tmp_path):
    arguments = {"num_landmarks": 2, "views_per_landmark": 2, "num_distractors": 3}
    labels_path = synthetic.write_collection(tmp_path / "c", **arguments, image_side=64)
    assert labels_path == tmp_path / "c" / "labels.csv"
    labels = folder.read_labels(labels_path)
    refs = folder.list_images(tmp_path / "c" / "images")
    assert sorted(labels) == [ref.id for ref in refs]
    assert labels["landmark_0001_00.jpg"] == "landmark_0001"
    assert labels["distractor_00002.jpg"] == ""
    assert len(folder.labelled_queries(list(labels), labels)) == 4
    assert all(max(read_image(ref).shape) == 64 for ref in refs)


def test_later_views_of_the_same_landmarks(tmp_path):
    arguments = {"num_landmarks": 1, "image_side": 48}
    synthetic.write_collection(tmp_path / "all", views_per_landmark=3, **arguments)
    labels = synthetic.write_collection(
        tmp_path / "last", views_per_landmark=1, first_view=2, **arguments
    )
    assert folder.read_labels(labels) == {"landmark_0000_02.jpg": "landmark_0000"}
    (last,) = (tmp_path / "last" / "images").iterdir()
    assert last.read_bytes() == (tmp_path / "all" / "images" / last.name).read_bytes()


def test_a_killed_run_ends_byte_identical(tmp_path):
    arguments = {
        "num_landmarks": 1,
        "views_per_landmark": 3,
        "num_distractors": 1,
        "image_side": 48,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for one in (whole, cut):
        synthetic.write_collection(one, **arguments)
    (cut / "labels.csv").unlink()
    (cut / "images" / "landmark_0000_01.jpg").unlink()
    kept = (cut / "images" / "landmark_0000_00.jpg").stat().st_mtime_ns
    synthetic.write_collection(cut, **arguments)
    assert (cut / "images" / "landmark_0000_00.jpg").stat().st_mtime_ns == kept
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(cut) for path in cut.rglob("*") if path.is_file())
    for name in names:
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


def test_worker_processes_write_the_same(tmp_path):
    arguments = {
        "num_landmarks": 2,
        "views_per_landmark": 1,
        "num_distractors": 1,
        "image_side": 48,
    }
    for name, workers in (("one", 1), ("two", 2)):
        synthetic.write_collection(tmp_path / name, **arguments, num_workers=workers)
    for path in (tmp_path / "one" / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "images" / path.name).read_bytes()


def test_collections_are_not_mixed(tmp_path):
    arguments = {"num_landmarks": 1, "views_per_landmark": 1, "image_side": 48}
    synthetic.write_collection(tmp_path, **arguments)
    with pytest.raises(InputError, match=r"must hold one collection.*'seed': 1"):
        synthetic.write_collection(tmp_path, **arguments, seed=1)
    (tmp_path / "collection.json").write_text("{")
    with pytest.raises(InputError, match="must be readable"):
        synthetic.write_collection(tmp_path, **arguments)


def test_seeds_have_no_landmark_in_common(tmp_path):
    for seed in (0, 1):
        synthetic.write_collection(
            tmp_path / str(seed), num_landmarks=1, views_per_landmark=1, image_side=48, seed=seed
        )
    name = "images/landmark_0000_00.jpg"
    assert (tmp_path / "0" / name).read_bytes() != (tmp_path / "1" / name).read_bytes()
    record = json.loads((tmp_path / "1" / "collection.json").read_text())
    assert record["seed"] == 1
    assert record["generator_version"] == collection.GENERATOR_VERSION


@pytest.mark.parametrize(
    "change",
    [{"num_landmarks": -1}, {"views_per_landmark": 0}, {"image_side": 8}, {"num_workers": 0}],
)
def test_bad_collections(tmp_path, change):
    arguments = {"num_landmarks": 1, "views_per_landmark": 1, **change}
    with pytest.raises(InputError, match=next(iter(change))):
        synthetic.write_collection(tmp_path / "c", **arguments)
    assert not (tmp_path / "c").exists()
    with pytest.raises(InputError, match="must have images"):
        synthetic.write_collection(tmp_path / "c", num_landmarks=0, views_per_landmark=1)


def test_noise_has_the_size_asked_for():
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 300), (64, 48)):
        noise = textures.fractal_noise(rng, height, width)
        assert noise.shape == (height, width)
        assert np.isfinite(noise).all()
