from __future__ import annotations

import pytest
import torch

from vitprune.training.augment import augment_images, draw_affine, mix, resample
from vitprune.training.options import AugmentOptions

OFF = {
    "horizontal_flip": 0.0,
    "crop_scale_min": 1.0,
    "rotation_degrees": 0.0,
    "policy": None,
    "policy_magnitude": 9,
    "noise_std": 0.0,
    "erasing": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}
ON = {
    "horizontal_flip": 0.5,
    "crop_scale_min": 0.5,
    "rotation_degrees": 20.0,
    "policy": "randaugment",
    "policy_magnitude": 9,
    "noise_std": 0.1,
    "erasing": 0.5,
    "mixup_alpha": 0.5,
    "cutmix_alpha": 0.5,
}
LABELS = torch.arange(16) % 5


def params(**changes: float) -> AugmentOptions:
    return AugmentOptions(**{**OFF, **changes})


def some_images(b: int = 16, c: int = 3, height: int = 12, width: int = 12) -> torch.Tensor:
    return torch.rand(b, c, height, width, generator=torch.Generator().manual_seed(0))


def test_switched_off_it_returns_the_very_same_tensors() -> None:
    images = some_images()
    assert augment_images(images, params(), seed=0) is images
    mixed, targets = mix(images, LABELS, params(), num_classes=5, seed=0)
    assert mixed is images
    assert targets is LABELS


@pytest.mark.parametrize("part", [key for key in ON if key not in ("policy_magnitude", "mixup_alpha", "cutmix_alpha")])
def test_each_part_changes_images_and_leaves_its_input_alone(part: str) -> None:
    images = some_images()
    before = images.clone()
    changed = augment_images(images, params(**{part: ON[part]}), seed=0)
    assert not torch.equal(changed, images)
    assert torch.equal(images, before)


def test_a_certain_flip_equals_torch_flip() -> None:
    images = some_images()
    torch.testing.assert_close(
        augment_images(images, params(horizontal_flip=1.0), seed=3), images.flip(3), rtol=0, atol=1e-5
    )


def test_about_half_of_the_images_are_flipped_at_one_half() -> None:
    images = some_images(b=1000, c=1, height=4, width=4)
    flipped = augment_images(images, params(horizontal_flip=0.5), seed=0)
    share = (flipped - images).abs().amax((1, 2, 3)).gt(1e-3).float().mean().item()
    assert 0.44 < share < 0.56


def test_resampling_by_the_identity_changes_nothing() -> None:
    images = some_images(height=9, width=14)
    identity = torch.eye(2, 3).expand(16, 2, 3)
    torch.testing.assert_close(resample(images, identity), images, rtol=0, atol=1e-6)


def test_a_rotation_by_almost_nothing_changes_nothing() -> None:
    images = some_images()
    torch.testing.assert_close(augment_images(images, params(rotation_degrees=1e-6), seed=0), images, rtol=0, atol=1e-5)


def test_a_quarter_turn_equals_rot90() -> None:
    images = some_images()
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]).expand(16, 2, 3)
    torch.testing.assert_close(resample(images, quarter), images.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_rotations_keep_angles_and_lengths_in_pixels_even_if_the_image_is_not_square() -> None:
    images = some_images(height=10, width=30)
    matrices = draw_affine(images.shape, params(rotation_degrees=40.0), torch.Generator().manual_seed(0))[:, :, :2]
    to_pixels = torch.diag(torch.tensor([15.0, 5.0]))
    in_pixels = to_pixels @ matrices @ torch.linalg.inv(to_pixels)
    torch.testing.assert_close(in_pixels @ in_pixels.mT, torch.eye(2).expand(16, 2, 2), rtol=0, atol=1e-5)
    degrees = torch.rad2deg(torch.atan2(in_pixels[:, 1, 0], in_pixels[:, 0, 0]))
    assert degrees.abs().max() <= 40
    assert degrees.std() > 5


def test_crops_stay_inside_the_image_and_cover_their_share() -> None:
    images = some_images(b=500, c=1)
    matrices = draw_affine(images.shape, params(crop_scale_min=0.3), torch.Generator().manual_seed(0))
    size = torch.stack([matrices[:, 0, 0], matrices[:, 1, 1]], 1)
    centre = matrices[:, :, 2]
    assert (centre.abs() + size).max() <= 1 + 1e-6
    area = size.prod(1)
    assert 0.3 * 0.99 <= area.min() < 0.35
    assert 0.9 < area.max() <= 1
    aspect = size[:, 0] / size[:, 1]
    assert aspect.min() >= 0.749
    assert aspect.max() <= 1.334


def test_a_crop_shows_the_part_of_the_image_that_its_matrix_names() -> None:
    images = some_images(b=1, c=1, height=8, width=8)
    left_upper_quarter = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 0.5, -0.5]]])
    seen = torch.nn.functional.avg_pool2d(resample(images, left_upper_quarter), 2)
    # A crop enlarged twice and averaged back is a slightly smoothed original; its mean is that of the crop, roughly.
    assert seen.mean().item() == pytest.approx(images[:, :, :4, :4].mean().item(), abs=0.05)


@pytest.mark.parametrize("part", ["crop_scale_min", "rotation_degrees", "noise_std", "erasing"])
def test_images_of_one_batch_get_parameters_of_their_own(part: str) -> None:
    same = some_images(b=1).expand(8, -1, -1, -1).contiguous()
    strength = 1.0 if part == "erasing" else ON[part]
    changed = augment_images(same, params(**{part: strength}), seed=1)
    distinct = {image.numpy().tobytes() for image in changed}
    assert len(distinct) == 8


def test_noise_has_the_standard_deviation_asked_for() -> None:
    images = some_images(b=64)
    difference = augment_images(images, params(noise_std=0.2), seed=0) - images
    assert difference.std().item() == pytest.approx(0.2, rel=0.03)
    assert difference.mean().item() == pytest.approx(0.0, abs=0.01)


def test_an_erased_rectangle_covers_between_2_and_33_percent() -> None:
    images = torch.full((400, 1, 64, 64), 2.0)
    erased = augment_images(images, params(erasing=1.0), seed=0).ne(2.0)
    share = erased.float().mean((1, 2, 3))
    # Sides are rounded to pixels.
    assert 0.015 < share.min() < 0.04
    assert 0.28 < share.max() < 0.35
    assert share.mean().item() == pytest.approx((0.02 + 0.33) / 2, abs=0.02)
    # A rectangle is the product of its rows and columns.
    rows, columns = erased.any(3).sum(2), erased.any(2).sum(2)
    assert torch.equal(rows * columns, erased.sum((2, 3)))


def test_the_share_of_erased_images_is_the_probability() -> None:
    images = torch.full((1000, 1, 8, 8), 2.0)
    erased = augment_images(images, params(erasing=0.3), seed=0).ne(2.0).any(3).any(2).any(1)
    assert erased.float().mean().item() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}])
def test_mixed_targets_are_probabilities_of_the_classes_that_were_mixed(alphas: dict[str, float]) -> None:
    for seed in range(5):
        mixed, targets = mix(some_images(), LABELS, params(**alphas), num_classes=5, seed=seed)
        assert mixed.shape == (16, 3, 12, 12)
        torch.testing.assert_close(targets.sum(1), torch.ones(16))
        neighbours = LABELS.roll(1)
        involved = targets.gather(1, torch.stack([LABELS, neighbours], 1))
        expected = torch.where(neighbours == LABELS, 2.0, 1.0)
        torch.testing.assert_close(involved.sum(1), expected)


def test_with_both_mixtures_each_batch_gets_one_of_them() -> None:
    images = some_images()
    both = params(mixup_alpha=1.0, cutmix_alpha=1.0)
    kinds = set()
    for seed in range(20):
        mixed, _ = mix(images, LABELS, both, num_classes=5, seed=seed)
        from_one = (mixed == images) | (mixed == images.roll(1, 0))
        kinds.add("cutmix" if from_one.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_seed_decides_everything(channels: int) -> None:
    images, everything = some_images(c=channels), AugmentOptions(**ON)

    def augmented(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return mix(augment_images(images, everything, seed=seed), LABELS, everything, num_classes=5, seed=seed)

    first, again, other = augmented(1), augmented(1), augmented(2)
    assert first[0].shape == images.shape
    assert torch.isfinite(first[0]).all()
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_the_callers_random_state_is_neither_read_nor_changed() -> None:
    images, everything = some_images(), AugmentOptions(**ON)
    results = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            results.append(
                mix(augment_images(images, everything, seed=5), LABELS, everything, num_classes=5, seed=5)[0]
            )
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_treats_groups_of_images_differently_and_by_the_seed_alone(policy: str, channels: int) -> None:
    # Every image is the same one, so that all differences come from the policy.
    images = some_images(1, channels, 16, 16).expand(64, -1, -1, -1).contiguous()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment_images(images, params(policy=policy), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment_images(images, params(policy=policy), seed=5), first)
    assert not torch.equal(augment_images(images, params(policy=policy), seed=6), first)
    assert first.shape == images.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert len({image.numpy().tobytes() for image in first}) > 8


def test_a_batch_smaller_than_the_groups_goes_through_a_policy() -> None:
    assert augment_images(some_images(3), params(policy="trivialaugment"), seed=0).shape == (3, 3, 12, 12)
