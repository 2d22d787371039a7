"""Vocabularies trained from a corpus: the verb tokenizer."""

from distillkit.vocabulary.training import train_tokenizer

__all__ = ["train_tokenizer"]
