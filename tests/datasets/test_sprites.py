import numpy as np
import pytest
import torch

from pyro_infomax.datasets import Sprites

NAMES = ("square", "ellipse", "heart")
AREAS = (21.4**2, np.pi * 15.1 * 8.2, 180 * np.pi * (15.4 / (17 + 5 / 6)) ** 2)  # at scale 1


@pytest.fixture(scope="module")
def full():
    return Sprites()


@pytest.fixture(scope="module")
def middle(full):
    """All shapes, scales and orientations at one place: factors, and images (2 * 360, 64, 64) as integers."""
    factors = full.all_factors()
    factors = factors[(factors[:, 3] == 16) & (factors[:, 4] == 16)]
    return factors, full.observations(factors).int()


# ---- the grid


def test_the_grid_is_the_official_one(full):
    assert full.factor_names == ("shape", "scale", "orientation", "position_x", "position_y")
    assert full.factor_sizes == (3, 6, 40, 32, 32)
    assert len(full) == 737_280
    assert full.observation_shape == (64, 64)
    values = full.factor_values
    assert values["shape"] == NAMES
    assert np.allclose(values["scale"], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert np.allclose(np.diff(values["orientation"]), 2 * np.pi / 39)
    assert (values["orientation"][0], values["orientation"][-1]) == (0, 2 * np.pi)
    assert np.allclose(values["position_x"], np.arange(32) / 31)


def test_images_are_black_and_white(full):
    images, _ = full.sample(300, seed=0)
    assert images.unique().tolist() == [0, 1]


def test_no_figure_touches_the_border(full):
    factors = full.all_factors()
    factors = factors[(factors[:, 1] == 5) & (factors[:, 3] % 31 == 0) & (factors[:, 4] % 31 == 0)]
    images = full.observations(factors)
    inner = images[:, 1:-1, 1:-1]
    assert len(images) == 3 * 40 * 4
    assert images.sum() == inner.sum() > 0


def test_no_figure_touches_the_border_of_a_smaller_image():
    grid = Sprites(scales=[1.0], orientations=90, endpoint=False, positions=[0.0, 1.0], size=24)
    images, _ = grid.images_and_factors()
    assert images.sum() == images[:, 1:-1, 1:-1].sum() > 0


def test_the_area_goes_with_the_square_of_the_scale(full, middle):
    factors, images = middle
    areas = images.sum((1, 2)).double().numpy()
    scale = np.array(full.factor_values["scale"])[factors[:, 1]]
    true = np.array(AREAS)[factors[:, 0]] * scale**2
    # A pixel in four of those along the outline, some 4 roots of the area, may be on one side or the other
    assert (np.abs(areas - true) < np.sqrt(true)).all()
    for cell in range(18):
        chosen = factors[:, 0] * 6 + factors[:, 1] == cell
        assert areas[chosen].mean() == pytest.approx(true[chosen][0], rel=0.015)


def test_the_centre_of_mass_is_at_the_position(full):
    images, factors = full.sample(2000, seed=0)
    pixels = torch.arange(64) + 0.5
    mass = images.sum((1, 2))
    x = (images.sum(1) * pixels).sum(1) / mass
    y = (images.sum(2) * pixels).sum(1) / mass
    assert np.abs(x.numpy() - (16.5 + factors[:, 3])).max() < 0.25
    assert np.abs(y.numpy() - (16.5 + factors[:, 4])).max() < 0.25


def test_a_step_in_position_shifts_by_a_pixel(full):
    factors = full.sample_factors(200, seed=1)
    factors = factors[(factors[:, 3] < 31) & (factors[:, 4] < 31)]
    images = full.observations(factors)
    right, down = (full.observations(factors + step) for step in np.eye(5, dtype=int)[3:])
    assert torch.equal(right, images.roll(1, dims=2))
    assert torch.equal(down, images.roll(1, dims=1))


def test_a_full_turn_looks_like_none(full, middle):
    factors, images = middle
    assert torch.equal(images[factors[:, 2] == 0], images[factors[:, 2] == 39])


def test_opposite_orientations_mirror_each_other(full):
    factors = full.sample_factors(400, seed=2)
    mirrored = factors * [1, 1, -1, -1, 1] + [0, 0, 39, 31, 0]
    differ = full.observations(factors) != full.observations(mirrored).flip(2)
    assert differ.flatten(1).sum(1).max() <= 2


def test_distinct_images_are_as_many_as_orientations_that_can_be_told_apart(full, middle):
    factors, images = middle
    distinct = [len(images[factors[:, 0] == number].flatten(1).unique(dim=0)) for number in range(3)]
    assert distinct[1:] == [6 * 39, 6 * 39]
    # A small square, whose quarter is divided into 39 angles, is not always turned by as much as a pixel
    assert 200 <= distinct[0] <= 6 * 39
    # The other places hold the same images, shifted
    assert 0.9 * 718_848 < sum(distinct) * 32 * 32 <= 718_848


def test_a_small_grid_without_a_full_turn_has_no_image_twice():
    grid = Sprites(shapes=("heart",), scales=3, orientations=8, endpoint=False, positions=4, size=32)
    images, _ = grid.images_and_factors()
    assert len(images.flatten(1).unique(dim=0)) == len(grid) == 3 * 8 * 16


@pytest.mark.parametrize("factor", range(5))
def test_every_factor_moves_the_picture(full, factor):
    factors = full.sample_factors(50, seed=3)
    factors[:, 2] = np.clip(factors[:, 2], 3, 30)
    moved = factors.copy()
    moved[:, factor] = np.where(moved[:, factor] > 0, moved[:, factor] - 1, 1)
    differ = (full.observations(factors) != full.observations(moved)).flatten(1).any(1)
    # Neighbouring angles of a small square may look the same
    assert differ.double().mean() > (0.95 if factor == 2 else 0.999)


# ---- continuous values


ANGLES = np.random.default_rng(0).uniform(0, 2 * np.pi, 60)


def pixels_that_differ(sprites, shape, turn):
    one = sprites.render(shape, 0.9, ANGLES, 0.3, 0.61)
    other = sprites.render(shape, 0.9, ANGLES + turn, 0.3, 0.61)
    return (one != other).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("shape", "turn"),
    [(name, 2 * np.pi) for name in NAMES]
    + [("square", k * np.pi / 2) for k in (1, 2, 3)]
    + [("ellipse", np.pi)],
)
def test_figures_come_back_after_their_own_turn(full, shape, turn):
    assert pixels_that_differ(full, shape, turn).max() <= 1


@pytest.mark.parametrize(
    ("shape", "turn"),
    [
        ("heart", np.pi),
        ("heart", np.pi / 2),
        ("heart", 2 * np.pi / 3),
        ("ellipse", np.pi / 2),
        ("square", np.pi / 4),
        ("square", np.pi / 3),
    ],
)
def test_figures_do_not_come_back_after_other_turns(full, shape, turn):
    assert pixels_that_differ(full, shape, turn).min() > 20


def test_the_heart_is_upright_and_turns_counterclockwise(full):
    upright, quarter = full.render("heart", 1.0, [0, np.pi / 2], 0.5, 0.5).double()
    lit = torch.nonzero(upright)  # (pixel, row and column)
    tip = lit[lit[:, 0].argmax()]
    assert tip[1] in (31, 32)
    assert len(lit[lit[:, 0] == lit[:, 0].max()]) < 4
    # The tip, which was below, has come to the right
    turned = torch.nonzero(quarter)
    assert turned[:, 1].max() - 32 > 32 - turned[:, 1].min()


@pytest.mark.parametrize("size", [8, 16, 24, 32, 128])
def test_lengths_are_proportional_to_the_image(size):
    image = Sprites(scales=[1.0], size=size).render("ellipse", 1.0, ANGLES, 0.0, 1.0).double()
    assert image.shape == (60, size, size)
    assert image.sum((1, 2)).mean() == pytest.approx(AREAS[1] * (size / 64) ** 2, rel=0.25 * 8 / size)


def test_no_figure_falls_between_the_pixels_of_a_small_image():
    for positions in (5, 8):
        grid = Sprites(orientations=13, positions=positions, size=12)
        images, _ = grid.images_and_factors()
        assert images.sum((1, 2)).min() > 0


def test_tensors_with_gradients_are_rendered(full):
    scales = torch.tensor([0.5, 1.0], requires_grad=True)
    assert torch.equal(
        full.render("heart", scales, 0.0, 0.5, 0.5), full.render("heart", [0.5, 1.0], 0.0, 0.5, 0.5)
    )


def test_single_values_are_enough_and_arrays_broadcast(full):
    assert full.render("square", 1.0, 0.0, 0.5, 0.5).shape == (1, 64, 64)
    assert full.render(["square", "heart"], 1.0, [0.0], 0.5, [0.1, 0.2]).shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("disc", 1, 0, 0.5, 0.5), "one of the shapes square, ellipse, heart but got 'disc'"),
        (("square", 0, 0, 0.5, 0.5), r"scales in \(0, 1\]"),
        (("square", 1, 0, 1.5, 0.5), r"x in \[0, 1\]"),
        (("square", 1, 0, 0.5, -0.1), r"y in \[0, 1\]"),
        (("square", 1, np.nan, 0.5, 0.5), "finite orientation"),
        (("square", [[1.0, 0.5]], 0, 0.5, 0.5), r"a number, or one for each image, but got shape \(1, 2\)"),
    ],
)
def test_values_out_of_range_are_not_rendered(full, values, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        full.render(*values)


# ---- other grids


def test_counts_and_values_make_other_grids():
    grid = Sprites(
        shapes="heart", scales=[0.5, 1.0], orientations=4, endpoint=False, positions_x=2, positions_y=[0.5]
    )
    assert grid.factor_sizes == (1, 2, 4, 2, 1)
    assert grid.factor_values == {
        "shape": ("heart",),
        "scale": (0.5, 1.0),
        "orientation": tuple(np.linspace(0, 2 * np.pi, 4, endpoint=False)),
        "position_x": (0.0, 1.0),
        "position_y": (0.5,),
    }


def test_one_value_alone_is_the_largest_upright_and_in_the_middle():
    alone = Sprites(shapes="heart", scales=1, orientations=1, positions=1)
    assert torch.equal(alone.observations([[0] * 5]), alone.render("heart", 1.0, 0.0, 0.5, 0.5))


def test_shapes_keep_the_order_in_which_they_are_named(full):
    other = Sprites(shapes=("heart", "square"))
    assert torch.equal(other.observations([[0, 5, 3, 1, 2]]), full.observations([[2, 5, 3, 1, 2]]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"shapes": ("disc",)}, "shapes to be some of square, ellipse, heart"),
        ({"shapes": ()}, "shapes to be some of"),
        ({"shapes": ("heart", "heart")}, "shapes to be some of square, ellipse, heart, each once"),
        ({"scales": 0}, "scales to be a number of values >= 1"),
        ({"scales": [0.5, 1.2]}, r"scales in \(0, 1\]"),
        ({"orientations": []}, "orientations to be a number or a list of finite values"),
        ({"orientations": [0.0, np.inf]}, "orientations to be a number or a list of finite values"),
        ({"positions": [0.0, 0.0]}, "positions without repetition"),
        ({"positions_y": [2.0]}, r"positions in \[0, 1\]"),
        ({"positions": True}, "positions to be a number or a list"),
        ({"size": 11}, r"figures that cannot fall between the centres of pixels, scale \* size >= 5.52, but"),
        ({"scales": [0.08]}, "figures that cannot fall between"),
        ({"size": 4}, "size to be an integer >= 8"),
        ({"size": 32.0}, "size to be an integer >= 8"),
    ],
)
def test_grids_that_cannot_be_are_refused(keywords, message):
    with pytest.raises(ValueError, match=f"Expected {message}"):
        Sprites(**keywords)


def test_correlation_changes_what_comes_and_not_how_it_looks(full):
    tied = Sprites(correlated={("position_x", "position_y"): 0.1})
    factors = tied.sample_factors(2000, seed=0)
    correlation = np.corrcoef(factors[:, 3], factors[:, 4])[0, 1]
    assert correlation > 0.9
    assert abs(np.corrcoef(full.sample_factors(2000, seed=0)[:, 3:].T)[0, 1]) < 0.1
    assert torch.equal(tied.observations(factors[:20]), full.observations(factors[:20]))


@pytest.mark.parametrize("name", ["size", "orientations", "scales", "positions"])
def test_sizes_that_no_memory_holds_are_refused(name):
    with pytest.raises(ValueError, match=f"Expected {name} to be .* <= "):
        Sprites(**{name: 2**70})


@pytest.mark.parametrize("values", [["a"], b"ab", {"a": 1}, torch.ones(3, device="meta"), object()])
def test_values_that_are_no_numbers_are_refused(values):
    with pytest.raises(ValueError, match="Expected orientations"):
        Sprites(orientations=values)


def test_what_is_rendered_is_one_each_or_one_for_all():
    with pytest.raises(ValueError, match="or one for each image, but got 1, 1, 2, 3, 1"):
        Sprites().render("heart", 1.0, [0.0, 1.0], [0.1, 0.2, 0.3], 0.5)
    with pytest.raises(ValueError, match="or one for each image, but got 1, 0, 1, 1, 1"):
        Sprites().render("heart", [], 0.0, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"but got shape .* and dtype"):
        Sprites().render("heart", "large", 0.0, 0.5, 0.5)


def test_tensors_without_values_are_refused():
    with pytest.raises(ValueError, match="Expected factors with values but got a tensor of the device meta"):
        Sprites().observations(torch.ones(3, 5, dtype=torch.long, device="meta"))
