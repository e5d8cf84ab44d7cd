"""Messages of the package in the words of the command line: ``--input-type tpm``, not ``input_type='tpm'``."""

import re

# arguments that have another name as an option; the first one that the command has is meant
_OTHER = {
    "max_epochs": ("--epochs",),
    "layer": ("--layer", "--bulk-layer"),
    "genes": ("--genes-in",),
    "hierarchy": ("--tree",),
    "groupby": ("--groupby",),
    "anchor_labels_key": ("--anchor-labels-key",),
    "context_keys": ("--field",),
    "variable_types": ("--variable-type",),
}
_VALUE = r"'[^']*'|\"[^\"]*\"|True|False|None|-?\d[\d.e-]*\d|\d|\[[^\]]*\]"
_PAIR = re.compile(
    rf"`?(?P<call>(?:\w+\.)*\w+\((?:\.\.\., )?)?\b(?P<name>[a-z][a-z0-9_]*)=(?P<value>{_VALUE})(?(call)\)?)`?"
)
_NAME = re.compile(r"(?<![\w'\"./\[-])[a-z]+(?:_[a-z]+)+(?![\w'\"/(=\]]|\.\w)")
_MAP_GENES = re.compile(r"`(?:\w+ = )?hp\.pp\.map_genes\([^`]*\)`")
_ELSEWHERE = re.compile(
    r"( to `deconvolve`)?\. Elsewhere, take `hp\.pp\.map_genes\([^`]*\)` with the names of the reference"
)
_COMMANDS = ("check_labels", "transfer_labels", "compare_groups", "diagnose", "evaluate", "solve")
_CALL = re.compile(rf"`?\b(?:hp|hpvade)\.(?:tl|pp)\.({'|'.join(_COMMANDS)})\b(?:\(((?:[^()]|\([^()]*\))*)\))?`?")
_REPEATED = {"types": "--type"}  # lists are options that may come again
_MAPPING = re.compile(r"\bmapping=(\{[^{}]*\})")  # an option that reads a file
_OBJECTS = {"adata": "REF", "bulk": "BULK", "bulk_adata": "BULK", "anchor": "ANCHOR"}
_NAMES = {"var_names": "the genes of {}", "obs_names": "the rows of {}"}
_OBJECT = re.compile(r"\b(adata|bulk_adata|bulk|anchor)\.(obs|var|X|raw|layers|obsm|varm|var_names|obs_names)\b")
# remedies that only Python has, beside one that the command line has
_SELECTION = re.compile(r": `bulk\[bulk\.obs\[[^`]*`")
_ONLY_PYTHON = re.compile(r", or keep its first with `[^`]*`(?:\. `var_names_make_unique` would hide them)?")


def in_words(text: str, options: frozenset[str] | set[str]) -> str:
    """`text` with arguments of Python as the options that a command has; what it does not have stays.

    Examples
    --------
    >>> in_words("Pass the layer with counts (layer='counts'), or missing='mean'.", {"--layer", "--missing"})
    'Pass the layer with counts (--layer counts), or --missing mean.'
    >>> in_words("labels_key='x' is not a column of adata.obs", {"--labels-key"})
    '--labels-key x is not a column of REF.obs'
    """
    if "--map-genes" in options:
        text = _MAP_GENES.sub("--map-genes", _ONLY_PYTHON.sub("", _ELSEWHERE.sub("", text)))
    text = _CALL.sub(_command, _SELECTION.sub("", text))
    if "--mapping" in options:
        text = _MAPPING.sub(lambda match: f"--mapping M.json, a file with {_json(match[1])}", text)
    text = _PAIR.sub(lambda match: _pair(match, options, text), text)
    text = _NAME.sub(lambda match: _option(match[0], options, text) or match[0], text)
    return "`".join(part if i % 2 else _OBJECT.sub(_object, part) for i, part in enumerate(text.split("`")))


def _command(match: re.Match) -> str:
    words = ["hpvade", "compare" if match[1] == "compare_groups" else match[1].replace("_", "-")]
    for pair in _PAIR.finditer(match[2] or ""):
        option = _REPEATED.get(pair["name"], "--" + pair["name"].replace("_", "-"))
        values = re.findall(r"'([^']*)'", pair["value"]) if pair["value"][0] == "[" else [pair["value"].strip("'\"")]
        words += [word for value in values for word in (option, value if " " not in value else f'"{value}"')]
    mapping = _MAPPING.search(match[2] or "")
    words += ["--mapping M.json"] if mapping else []
    return f"`{' '.join(words)}`" + (f", with {_json(mapping[1])} in M.json" if mapping else "")


def _json(text: str) -> str:
    return text.replace("'", '"')


def _object(match: re.Match) -> str:
    """`adata.obs` is REF.obs; what is in backticks is code, and stays."""
    file = _OBJECTS[match[1]]
    return _NAMES[match[2]].format(file) if match[2] in _NAMES else f"{file}.{match[2]}"


def _option(name: str, options, text: str) -> str | None:
    """The option that an argument is called; layers of bulk samples have an option of their own."""
    names = _OTHER.get(name, ("--" + name.replace("_", "-"),))
    if name == "layer" and re.search(r"\bbulk\b", text, re.IGNORECASE):
        names = names[::-1]
    return next((name for name in names if name in options), None)


def _pair(match: re.Match, options, text: str) -> str:
    option = _option(match["name"], options, text)
    if option is None:
        return match[0]
    value = match["value"].strip("'\"")
    if value in ("True", "False", "None"):
        return option if value == "True" else f"no {option}"
    return f"{option} {value}" if re.fullmatch(r"[\w./-]+", value) else f"{option} {match['value']}"
