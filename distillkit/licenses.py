"""The licence identifiers that the Hugging Face hub knows."""

from __future__ import annotations

import difflib

from distillkit.errors import ConfigError

UNKNOWN = "unknown"
_IDENTIFIERS = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl apple-ascl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa
    unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other
"""
LICENSES = tuple(_IDENTIFIERS.split())
"""https://huggingface.co/docs/hub/repositories-licenses; the hub's list grows, `other` stands for what is missing."""


def check_license(license: str | None, *, key: str) -> None:
    """Refuses a licence that the hub would not know; None is fine.

    Args:
        license: an identifier such as apache-2.0.
        key: the key to blame.

    Raises:
        ConfigError: with the nearest identifier.
    """
    if license is not None and license not in LICENSES:
        near = difflib.get_close_matches(str(license).lower(), LICENSES, n=1, cutoff=0.4)
        raise ConfigError(
            "not a licence of the hub", key=key, value=license, allowed="apache-2.0, mit, cc-by-4.0 ... or other",
            fix=f"did you mean {near[0]}?" if near else None,
        )  # fmt: skip
