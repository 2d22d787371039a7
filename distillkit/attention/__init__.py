"""Attention as distillkit computes it inside stock transformers models."""

from distillkit.attention.interface import NAME, unpadded, use_quick_attention

__all__ = ["NAME", "unpadded", "use_quick_attention"]
