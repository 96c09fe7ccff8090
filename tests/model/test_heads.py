"""Heads answer plain logits; ArcFace's are bounded cosines to the nearest sub-centre."""

from __future__ import annotations

import torch
from torch.nn import functional

from engine.model.heads import ArcFaceHead, LinearHead, MlpHead


def embeddings(batch: int = 5, features: int = 16) -> torch.Tensor:
    return torch.randn(batch, features, generator=torch.Generator().manual_seed(0))


def test_linear_head_drops_out_only_in_training() -> None:
    head, x = LinearHead(16, 4, dropout=0.5), embeddings()
    head.eval()
    torch.testing.assert_close(head(x), functional.linear(x, head.linear.weight, head.linear.bias))
    head.train()
    assert not torch.equal(head(x), head(x))


def test_mlp_head_is_not_linear_and_drops_out_only_in_training() -> None:
    head, x = MlpHead(16, 4, dropout=0.5), embeddings() * 10
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert head(x).shape == (5, 4)
    assert not torch.allclose(head(x) + head(-x), 2 * head(x * 0), atol=1e-3)


def test_arcface_logits_are_the_scaled_cosine_of_the_nearest_subcenter() -> None:
    head, x = ArcFaceHead(16, 4, subcenters=3, scale=30.0), embeddings()
    centers_CKE = head.centers.reshape(4, 3, 16)
    expected = functional.cosine_similarity(x[:, None, None], centers_CKE[None], dim=3).max(2).values * 30
    torch.testing.assert_close(head(x), expected)


def test_arcface_logits_do_not_depend_on_the_length_of_the_embedding() -> None:
    head, x = ArcFaceHead(16, 4, subcenters=1, scale=30.0), embeddings()
    torch.testing.assert_close(head(x), head(x * 7))


def test_only_the_nearest_subcenter_learns() -> None:
    head = ArcFaceHead(2, 1, subcenters=2, scale=1.0)
    with torch.no_grad():
        head.centers.copy_(torch.tensor([[1.0, 0.2], [-1.0, 0.0]]))
    head(torch.tensor([[1.0, 0.0]])).sum().backward()
    assert head.centers.grad[0].abs().sum() > 0
    assert head.centers.grad[1].abs().sum() == 0


def test_arcface_answers_in_fp32_under_bf16_autocast() -> None:
    head, x = ArcFaceHead(16, 4, subcenters=3, scale=30.0), embeddings()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, head(x))


def test_an_embedding_of_zeros_gives_finite_logits_and_gradients() -> None:
    head, x = ArcFaceHead(16, 4, subcenters=3, scale=30.0), torch.zeros(2, 16, requires_grad=True)
    head(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(head.centers.grad).all()
