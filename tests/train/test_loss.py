import math

import pytest
import torch
from torch.nn import functional as F

from expertly.train.loss import cross_entropy


def test_two_equal_logits_cost_ln_2() -> None:
    loss = cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    assert float(loss) == pytest.approx(math.log(2))


@pytest.mark.parametrize("num_tokens", [1, 255, 256, 257, 600])
def test_loss_and_gradient_are_torchs(num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    logits_TV = (5 * torch.randn(num_tokens, 37, generator=generator)).requires_grad_()
    target_T = torch.randint(37, (num_tokens,), generator=generator)
    loss = cross_entropy(logits_TV, target_T)
    (3 * loss).backward()
    double_TV = logits_TV.detach().double().requires_grad_()
    expected = F.cross_entropy(double_TV, target_T)
    (3 * expected).backward()
    assert logits_TV.grad is not None and double_TV.grad is not None
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(logits_TV.grad.double(), double_TV.grad, rtol=1e-5, atol=1e-8)


def test_a_large_logit_does_not_overflow() -> None:
    loss = cross_entropy(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    assert float(loss) == 1e4


def test_a_second_backward_fails_instead_of_scaling_twice() -> None:
    logits_TV = torch.zeros(2, 3, requires_grad=True)
    loss = cross_entropy(logits_TV, torch.tensor([0, 1]))
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        loss.backward()
