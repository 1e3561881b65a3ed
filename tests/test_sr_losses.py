"""Structure transfer: by hand, what it does not see, and whom it teaches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactnets import sr


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_of_one_by_two_pixels_is_that_by_hand():
    # Means of squares (9 + 7) / 2 = 8, (2 + 10) / 2 = 6: phi = (0.8, 0.6). Teacher: (1, 0).
    student = torch.tensor([[[[3.0, 2**0.5]], [[-(7**0.5), 10**0.5]]]])
    teacher = torch.tensor([[[[5.0, 0.0]], [[1.0, 0.0]]]])
    assert torch.allclose(sr.structure(student), torch.tensor([[0.8, 0.6]]))
    assert float(sr.structure_transfer(student, teacher)) == pytest.approx((0.04 + 0.36) / 2)


def test_each_image_of_a_batch_is_normalized_on_its_own_and_counts_alike():
    student, teacher = features(3, 4, 5, 6), features(3, 4, 5, 6, seed=1)
    alone = [
        float(sr.structure_transfer(s[None], t[None]))
        for s, t in zip(student, teacher, strict=True)
    ]
    assert float(sr.structure_transfer(student, teacher)) == pytest.approx(sum(alone) / 3)
    assert sr.structure(student).norm(dim=1).tolist() == pytest.approx([1, 1, 1])


@given(seed=st.integers(0, 99), scale=st.floats(1e-2, 1e3), channels=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_scale_sign_order_and_number_of_channels_do_not_matter(seed, scale, channels):
    student, teacher = features(2, channels, 3, 4, seed=seed), features(2, 3, 3, 4, seed=seed + 1)
    loss = float(sr.structure_transfer(student, teacher))
    assert 0 <= loss <= 2 / 12 + 1e-12
    assert float(sr.structure_transfer(-scale * student.flip(1), teacher)) == pytest.approx(loss)
    assert float(sr.structure_transfer(student, scale * teacher)) == pytest.approx(loss)
    assert float(sr.structure_transfer(student.repeat(1, 2, 1, 1), teacher)) == pytest.approx(loss)
    assert float(sr.structure_transfer(student, -student)) == 0


def test_features_without_common_support_are_as_far_apart_as_can_be():
    student, teacher = torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4)
    student[..., 0], teacher[..., 3] = 5.0, -2.0
    assert float(sr.structure_transfer(student, teacher)) == 2 / 4


def test_gradients_are_exact_and_reach_the_student_only():
    student, teacher = features(1, 2, 2, 3), features(1, 2, 2, 3, seed=1)
    student.requires_grad_()
    teacher.requires_grad_()
    kept = student.detach().clone(), teacher.detach().clone()
    loss = sr.structure_transfer(student, teacher)
    loss.backward()
    assert teacher.grad is None
    # Scaling the student changes nothing: the gradient is orthogonal to it.
    assert float((student.grad * kept[0]).sum()) == pytest.approx(0, abs=1e-12)
    assert float(student.grad.abs().sum()) > 0.01
    assert torch.equal(student, kept[0])
    assert torch.equal(teacher, kept[1])
    assert torch.autograd.gradcheck(
        lambda s: sr.structure_transfer(s, kept[1]), kept[0].requires_grad_()
    )


def test_vanishing_features_give_zeros_and_no_nan():
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    loss = sr.structure_transfer(student, torch.ones(1, 2, 3, 3))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 9)  # phi of the teacher alone, of length 1
    assert student.grad.isfinite().all()


def test_half_precision_features_of_hundreds_do_not_overflow():
    big = (300 * features(1, 2, 3, 3)).half()
    assert float(sr.structure_transfer(big, big)) == 0
    assert sr.structure(big).dtype == torch.float32


@pytest.mark.parametrize(
    ("one", "other", "word"),
    [
        ((1, 2, 3, 3), (2, 2, 3, 3), "same images"),
        ((1, 2, 3, 3), (1, 2, 3, 4), "same images"),
        ((2, 3, 3), (2, 3, 3), r"\(N, C, H, W\)"),
    ],
)
def test_features_that_do_not_belong_together_are_refused(one, other, word):
    with pytest.raises(ValueError, match=word):
        sr.structure_transfer(torch.ones(one), torch.ones(other))
