"""Commands as pages and cards show them: no secret however it is written, and no folder where none is wanted."""

from __future__ import annotations

import shlex

import pytest

from distillkit.errors import ConfigError
from distillkit.redaction import check_no_secret, shown_commands

SECRET = "S3CRET"


def shown(word: str, *, paths: bool = True) -> list[str]:
    """What is left of one override."""
    (line,) = shown_commands([[word]], paths=paths)
    return shlex.split(line)[2:]


@pytest.mark.parametrize(
    "word",
    [
        f"+logger.wandb.settings.api_key={SECRET}",
        f"logger.wandb.settings={{api_key:{SECRET}}}",
        f"logger.wandb.settings={{silent: true, api_key: {SECRET}}}",
        f"+a={{b:{{hf_token:'{SECRET}'}}}}",
        f'+a=[{{"password":"{SECRET}"}}]',
        f"+a.token.value={SECRET}",
        f"++trainer.auth={SECRET}",
        f"+env=WANDB_API_KEY={SECRET}",
        f"+env=[HF_TOKEN={SECRET},A=1]",
        f"+headers='Authorization: Basic {SECRET}'",
        f"+headers.x='Bearer {SECRET}'",
        f"data.path=s3://me:{SECRET}@bucket/a.txt",
        "run.dir=old",
        "+run.dir=old",
        "++run.dir=old",
    ],
)
@pytest.mark.parametrize("paths", [True, False])
def test_word_is_left_out_when_it_holds_a_secret_or_the_folder(word: str, paths: bool) -> None:
    assert shown(word, paths=paths) == []


def test_secret_is_refused_without_being_said_when_a_configuration_holds_it() -> None:
    with pytest.raises(ConfigError, match=r"^logger\.wandb\.settings\.api_key=\.\.\.: .*WANDB_API_KEY") as caught:
        check_no_secret({"seed": 1, "logger": {"wandb": {"settings": {"silent": True, "api_key": SECRET}}}})
    assert SECRET not in str(caught.value)
    check_no_secret({"data": {"batch_tokens": 4096, "hf_token": None}, "mask_token": "[MASK]"})


@pytest.mark.parametrize(
    "word",
    [
        "data.batch_tokens=4096", "+student.mask_token='[MASK]'", "loss.positions=tokens", "~callbacks.progress",
        "+a={max_tokens:5}", "teacher.path=owner/bert", "experiment=mine/small", "student.layers=[0,2,4]",
        "data.name=owner/wikitext", "loss.alpha=0.5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("paths", [True, False])
def test_word_is_shown_as_typed_when_it_is_harmless(word: str, paths: bool) -> None:
    assert shown(word, paths=paths) == [word]


@pytest.mark.parametrize(
    ("word", "without"),
    [
        ("teacher.path=/models/my_bert/", "teacher.path=my_bert"),
        ("student.init_from=runs/a/with_head/student", "student.init_from=with_head"),
        ("student.init_from=../student", "student.init_from=student"),
        ("teacher.path=~/models/bert", "teacher.path=bert"),
        ("data.path=../secret_client/a.txt", "data.path=a.txt"),
        ("data.path=secret_client/a.txt", "data.path=a.txt"),
        ("data.path=file:///data/me/a.txt", "data.path=a.txt"),
        ("data.path='my texts/*.txt'", "data.path='*.txt'"),
        ("data.path=[/x/y/a.txt, 'b c/d.txt']", "data.path=[a.txt, 'd.txt']"),
        ("+data.corpus={path:/x/y/a.txt,lines:3}", "+data.corpus={path:a.txt,lines:3}"),
        ("--config-dir=/x/my_conf", "--config-dir=my_conf"),
    ],
)
def test_files_are_shown_by_their_last_name_when_folders_are_not_wanted(word: str, without: str) -> None:
    assert shown(word) == [word]
    assert shown(word, paths=False) == [without]


def test_commands_survive_the_shell_and_have_lines_of_their_own_when_resumed() -> None:
    typed = ["data.path='my texts/*.txt'", "student.layers=[0,2]", "run.dir=old", "tokenizer.path=$HOME/a b"]
    train, resume = shown_commands([typed, ["trainer.max_steps=9"]], paths=True)
    assert shlex.split(train) == ["distillkit", "train", typed[0], typed[1], typed[3]]
    assert resume == "distillkit resume RUN_DIR trainer.max_steps=9"
