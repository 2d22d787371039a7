"""Corpora, their rows of tokens on disk, the batch plan and the masks."""

from distillkit.data.cache import PreparedData, prepare
from distillkit.data.column_corpus import CsvCorpus, JsonlCorpus, ParquetCorpus
from distillkit.data.corpus import Corpus, FileCorpus, TextCorpus
from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.data.demo_corpus import DemoCorpus
from distillkit.data.hub_corpus import HubCorpus
from distillkit.data.masking import VALID_SEED, Masker, TokenMasker
from distillkit.data.plan import BatchPlan, MicroBatch
from distillkit.data.splitting import Splits
from distillkit.data.word_masking import WordMasker

__all__ = [
    "VALID_SEED",
    "BatchPlan",
    "Corpus",
    "CsvCorpus",
    "DemoCorpus",
    "FileCorpus",
    "HubCorpus",
    "JsonlCorpus",
    "MaskedLMDataModule",
    "Masker",
    "MicroBatch",
    "ParquetCorpus",
    "PreparedData",
    "Splits",
    "TextCorpus",
    "TokenMasker",
    "WordMasker",
    "prepare",
]
