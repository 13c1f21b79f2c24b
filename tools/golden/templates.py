"""Writes tests/golden/templates/<name>.json: real chat templates, rendered by transformers' own Jinja environment."""

import contextlib
import datetime
import json
from pathlib import Path

import jinja2
from transformers.utils import chat_template_utils

import template_cases
import template_sources

NOW = datetime.datetime(2026, 1, 2)


class _FrozenClock:
    @staticmethod
    def now():
        return NOW


@contextlib.contextmanager
def frozen_clock():
    """Inside, `strftime_now` formats NOW."""
    real = chat_template_utils.datetime
    chat_template_utils.datetime = _FrozenClock
    try:
        yield
    finally:
        chat_template_utils.datetime = real


def render(template, tokens, case):
    """(text, assistant spans or None) of one case; a bos or eos token that the model lacks stays undefined."""
    special = {key: token for key, token in zip(("bos_token", "eos_token"), tokens) if token is not None}
    marked = "{% generation" in template or "{%- generation" in template

    def run(mask):
        return chat_template_utils.render_jinja_template(
            conversations=[case["messages"]], tools=case["tools"], chat_template=template,
            return_assistant_tokens_mask=mask, add_generation_prompt=case["add_generation_prompt"], **special, **case["extra"],
        )

    (text,), _ = run(False)
    if not marked:
        return text, None
    (again,), (spans,) = run(True)
    assert again == text
    return text, [list(span) for span in spans]


def write(folder: Path, source, archives: Path):
    """One template's file."""
    template = source.read(archives)
    package, licence = source.package
    rendered = []
    for case in template_cases.cases(source, template):
        result = {key: case[key] for key in ("messages", "tools", "add_generation_prompt")}
        result["extra"] = dict(case["extra"])
        if "strftime_now" in template:
            result["extra"]["now"] = NOW.date().isoformat()
        try:
            with frozen_clock():
                result["rendered"], result["assistant_spans"] = render(template, source.tokens, case)
        except jinja2.exceptions.TemplateError as error:
            # Only what the template itself raises is part of its behaviour; a template that trips over a value is not.
            if type(error) is not jinja2.exceptions.TemplateError:
                print(f"{source.name}: left out: {error!r}")
                continue
            result["error"], result["assistant_spans"] = error.message, None
        except TypeError as error:
            print(f"{source.name}: left out: {error!r}")
            continue
        rendered.append(result)
    golden = {
        "name": source.name,
        "source": f"{package}: {source.member or 'tokenizer_config.json'} ({source.model})",
        "licence": f"{licence} (package); {source.model_licence} (model)",
        "template": template,
        "bos_token": source.tokens[0],
        "eos_token": source.tokens[1],
        "cases": rendered,
    }
    (folder / f"{source.name}.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    errors = sum("error" in case for case in rendered)
    spans = sum(bool(case.get("assistant_spans")) for case in rendered)
    print(f"{source.name}: {len(rendered)} cases, {errors} errors, {spans} with assistant spans")


def write_all(folder: Path, archives: Path):
    """All templates; other files in the folder go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    for source in template_sources.sources():
        write(folder, source, archives)
