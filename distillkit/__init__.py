"""Knowledge distillation of masked-language-model encoders."""

__version__ = "0.1.0"
