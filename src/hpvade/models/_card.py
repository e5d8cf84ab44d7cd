"""A model card for a hub, from what `save` wrote: the same facts and tags as scvi-tools' cards."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jinja2
import yaml

from ..io._atomic import install_file, partial
from ._saving import read_document

# `scvi.hub` knows five classes and reads pickles; a card is a text, so it is written here
METADATA_FILE, CARD_FILE = "_scvi_required_metadata.json", "README.md"
_CARD = """\
---
{{ header }}---
# {{ name }}

{{ description or "Not described." }}

A model of [hpvade](https://pypi.org/project/hpvade/) {{ hpvade }}, built on scvi-tools {{ scvi }}. Load it with

```python
import hpvade as hp

model = hp.{{ name }}.load("FOLDER")
```

Nothing in the folder is executed: numbers are in safetensors, the rest in JSON.

## Trained on

{% for key, value in stats.items() -%}
- {{ key }}: {{ value }}
{% endfor -%}
{% if labels -%}
- types: {{ labels | join(", ") }}
{% endif -%}
- data: {{ url or "not given" }}

## Setup

```json
{{ setup }}
```

## Options

```json
{{ options }}
```

## References

{{ references or "Not given." }}
"""


def write_card(
    dir_path,
    *,
    license_info: str,
    description: str = "",
    tissues: Sequence[str] = (),
    data_modalities: Sequence[str] = ("rna",),
    training_data_url: str | None = None,
    references: str = "",
    prefix: str | None = None,
) -> Path:
    """Write ``README.md`` and ``_scvi_required_metadata.json`` beside a saved model; see `BaseModel.write_card`."""
    document = read_document(dir_path, prefix or "")
    name, registry = document["class_name"], document["registry_"]
    versions = {"scvi_version": registry["scvi_version"], "anndata_version": version("anndata")}
    tags = ["biology", "genomics", "single-cell", f"model_cls_name:{name}"]
    tags += [f"{key}:{value}" for key, value in versions.items()]
    tags += [f"modality:{value}" for value in data_modalities] + [f"tissue:{value}" for value in tissues]
    header = {"license": license_info, "library_name": "hpvade", "tags": tags}
    stats = {
        key: value for field in registry["field_registries"].values() for key, value in field["summary_stats"].items()
    }
    labels = registry["field_registries"].get("labels", {}).get("state_registry", {}).get("categorical_mapping", ())
    text = jinja2.Template(_CARD, keep_trailing_newline=True).render(
        header=yaml.safe_dump(header, sort_keys=False),
        name=name,
        description=description,
        references=references,
        hpvade=document["hpvade_version"],
        scvi=versions["scvi_version"],
        stats=stats,
        labels=[str(label) for label in labels],
        url=training_data_url,
        setup=json.dumps(registry["setup_args"], indent=2, default=str),
        options=json.dumps(document["attributes"]["init_params_"], indent=2, default=str),
    )
    metadata = versions | {
        "model_cls_name": name,
        "training_data_url": training_data_url,
        "model_parent_module": "hpvade",
    }
    card = Path(dir_path) / CARD_FILE
    for target, content in ((card.with_name(METADATA_FILE), json.dumps(metadata, indent=4)), (card, text)):
        with partial(target) as file:
            file.write_text(content, encoding="utf-8")
            install_file(file, target)
    return card
