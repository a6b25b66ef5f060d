"""The real web page of a user whose browser speaks another language."""

import json
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"


@pytest.mark.parametrize(
    "language, browser_locale", [("ko", "ko-KR"), ("zh", "zh-CN"), ("zh-TW", "zh-TW"), ("ja", "ja-JP")]
)
def test_a_node_speaks_the_users_language(open_page, server, language, browser_locale):
    texts = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))["GLDSetCameras"]
    page = open_page(locale=browser_locale)
    page.evaluate(
        """() => {
            app.graph.clear();
            const node = LiteGraph.createNode('GLDSetCameras');
            node.pos = [400, 300];
            app.graph.add(node);
        }"""
    )
    shown = page.evaluate(
        """() => {
            const node = app.graph.nodes[0];
            return {
                title: node.title,
                widgets: Object.fromEntries(node.widgets.map(widget => [widget.name, widget.label])),
                inputs: Object.fromEntries(node.inputs.map(input => [input.name, input.localized_name])),
                output: node.outputs[0].localized_name,
            };
        }"""
    )
    assert shown["title"] == texts["display_name"]
    assert shown["widgets"]["motion"] == texts["inputs"]["motion"]["name"]
    assert shown["widgets"]["motion.degrees"] == texts["inputs"]["motion_degrees"]["name"]
    assert shown["inputs"]["geometry"] == texts["inputs"]["geometry"]["name"]
    assert shown["output"] == texts["outputs"]["0"]["name"]
    offered = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))["gldOptions"]
    label = """name => {
        const widget = app.graph.nodes[0].widgets.find(widget => widget.name === name)
        return widget.options.getOptionLabel(widget.value)
    }"""
    assert page.evaluate(label, "motion") == f"{offered['motion']['orbit']} (orbit)"
    assert page.evaluate(label, "motion.ease") == f"{offered['ease']['none']} (none)"
    # A choice brings its own list.
    page.evaluate("app.graph.nodes[0].widgets.find(widget => widget.name === 'motion').value = 'keyframes'")
    page.wait_for_function("app.graph.nodes[0].widgets.some(widget => widget.name === 'motion.lens')")
    assert page.evaluate(label, "motion.lens") == f"{offered['lens']['source']} (source)"
    page.screenshot(path=server.base / f"{language}.png")
    page.close()
