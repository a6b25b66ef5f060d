"""Help pages and translations are those of the nodes: all that a node has, and nothing it has not."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("ja", "ko", "zh", "zh-TW")
# The English that was translated. After a change translate anew, then write it with tests/regenerate.py english.
ENGLISH = Path(__file__).with_name("english.json")


def inputs_of(group: dict, prefix: str = ""):
    """(key in nodeDefs.json, name, specification) of inputs, those of a DynamicCombo's options included. The sockets
    that an Autogrow input grows have names of their own, numbered; they are left out.
    """
    for name, (kind, *rest) in {**group.get("required", {}), **group.get("optional", {})}.items():
        if kind == "COMFY_AUTOGROW_V3":
            continue
        key, options = prefix + name, rest[0] if rest else {}
        yield key, name, options
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for option in options["options"]:
                yield from inputs_of(option["inputs"], key + "_")


def english_texts(nodes: dict) -> dict[str, list[str]]:
    """What there is to translate: dotted key of nodeDefs.json -> the English, several where options share a name."""
    texts: dict[str, list[str]] = {}
    for node, info in nodes.items():
        found = [("display_name", info["display_name"]), ("description", info["description"])]
        for key, name, options in inputs_of(info["input"]):
            found += [(f"inputs.{key}.name", name), (f"inputs.{key}.tooltip", options.get("tooltip", ""))]
            if options.get("control_after_generate"):
                found.append(("inputs.control_after_generate.name", "control after generate"))
        for slot, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True)):
            found += [(f"outputs.{slot}.name", name), (f"outputs.{slot}.tooltip", tooltip)]
        for key, text in found:
            known = texts.setdefault(f"{node}.{key}", [])
            known += [text] if text not in known else []
    return texts


def flat(tree: dict, prefix: str = "") -> dict[str, str]:
    out = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


@pytest.fixture(scope="module")
def nodes(server) -> dict[str, dict]:
    return {name: info for name, info in server.get("/object_info").items() if name.startswith("GLD")}


@pytest.fixture(scope="module")
def english(nodes) -> dict[str, list[str]]:
    return english_texts(nodes)


TABLE = re.compile(r"^\| (?:input|output) \|.*\n(?:\|.*\n)+", re.MULTILINE)


def help_tables(info: dict) -> list[str]:
    """The tables of inputs and outputs of a node's help page: names, then what they are, in two columns."""
    kinds = zip(info["output_name"], info["output_tooltips"], info["output"], strict=True)
    outputs = [f"| `{name}` | {breakable(f'{tooltip} *{kind}*')} |" for name, tooltip, kind in kinds]
    tables = [("input", [*input_rows(info["input"])]), ("output", outputs)]
    return ["\n".join([f"| {title} | |", "|---|---|", *rows]) + "\n" for title, rows in tables if rows]


def breakable(text: str) -> str:
    """Long words may be broken after these signs: the help panel is narrow, and cuts off what does not fit."""
    return re.sub(r"\S{13,}", lambda word: re.sub(r"([_/,]|[a-z](?=[A-Z]))(?=\w)", r"\1&#8203;", word[0]), text)


def input_rows(group: dict, indent: str = ""):
    """A row for each input, those of a DynamicCombo's options below it. Settings whose meaning depends on the option
    are left to the rest of the page.
    """
    for optional in (False, True):
        for name, (kind, *rest) in group.get("optional" if optional else "required", {}).items():
            options = rest[0] if rest else {}
            shown = {"COMFY_DYNAMICCOMBO_V3": "COMBO"}.get(kind, kind.replace(",", " or "))
            if kind == "COMFY_AUTOGROW_V3":
                kind, options = next(iter(options["template"]["input"]["required"].values()))
                shown = f"{kind.replace(',', ' or ')}, any number"
            shown += ", optional" if optional and not indent else ""
            about = f"{options.get('tooltip', '')} *{shown}*"
            yield f"| {indent}`{name}` | {breakable(about)} |"
            inner: dict[str, list[str]] = {}
            for option in keyed(options):
                for row in input_rows(option["inputs"], "&nbsp;&nbsp;" + indent):
                    rows = inner.setdefault(row.split("`")[1], [])
                    rows += [row] if row not in rows else []
            yield from (rows[0] for rows in inner.values() if len(rows) == 1)


def test_help_pages_have_the_nodes_inputs_and_outputs(nodes):
    """To write the tables anew: python tests/regenerate.py pages."""
    for node, info in nodes.items():
        page = (ROOT / "web/docs" / f"{node}.md").read_text(encoding="utf-8")
        assert TABLE.findall(page) == help_tables(info), node
        inner = {name for key, name, _ in inputs_of(info["input"]) if key != name}
        assert [name for name in inner if f"`{name}`" not in page] == [], node
        options = [option["key"] for _, _, spec in inputs_of(info["input"]) for option in keyed(spec)]
        assert [key for key in options if not re.search(rf"\b{key}\b", page)] == [], node


def keyed(specification: dict) -> list[dict]:
    return [option for option in specification.get("options", []) if isinstance(option, dict)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_none_is_stale(english, language):
    translated = flat(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")))
    assert {key: english[key] for key in sorted(english.keys() - translated.keys())} == {}, "to translate"
    assert sorted(translated.keys() - english.keys()) == [], "of nothing that a node has"
    assert [key for key, text in translated.items() if not text.strip()] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_input_whose_name_is_translated_says_its_own_name_too(language):
    """Messages call inputs by their own names; the tooltip ends with it."""
    for node, content in json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8")).items():
        for key, text in content["inputs"].items():
            own = {key, key.partition("_")[2]}
            if "tooltip" in text and text["name"] not in own:
                assert any(text["tooltip"].endswith(f"[{name}]") for name in own), f"{node}.{key}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_options_of_a_list_are_translated_together(nodes, language):
    """Lists of names (samplers, files, models, colour maps) are not in it."""
    offered = {}
    for info in nodes.values():
        for _, name, options in inputs_of(info["input"]):
            choices = [option["key"] if isinstance(option, dict) else option for option in options.get("options", ())]
            offered.setdefault(name, set()).update(choices)
    translated = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["gldOptions"]
    for name, labels in translated.items():
        names = {"vggt_licence": offered[name] - {"not chosen"}}.get(name, set())
        assert offered[name] - labels.keys() == names, f"{name}: to translate"
        assert labels.keys() - offered[name] == set(), f"{name}: no options"


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_inputs_of_a_node_have_the_same_label(language):
    for node, content in json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8")).items():
        labels = [text["name"] for text in content["inputs"].values()]
        assert [label for label in labels if labels.count(label) > 1] == [], node


def test_the_english_that_was_translated_is_the_nodes_own(english):
    """The page has no other way to know that a translation is of an older text."""
    known = json.loads(ENGLISH.read_text(encoding="utf-8"))
    changed = {key: english.get(key) for key in english.keys() | known.keys() if english.get(key) != known.get(key)}
    assert changed == {}, "translate these anew in locales/, then run: python tests/regenerate.py english"


def test_the_server_offers_them(server):
    offered = server.get("/i18n")
    for language in LANGUAGES:
        own = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        assert own.items() <= offered[language]["nodeDefs"].items()


@pytest.mark.parametrize("language", LANGUAGES)
def test_titles_and_names_are_plain_text_to_the_page(language):
    """The page reads them as message templates, in which these signs have a meaning."""
    texts = flat(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")))
    assert [key for key, text in texts.items() if not key.endswith("tooltip") and set(text) & set("{}@|$")] == []
