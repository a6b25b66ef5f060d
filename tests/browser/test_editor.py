"""The path editor in the real page, with a real mouse and keyboard: classic and Vue nodes, both published pages."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gld_core.cameras import Cameras
from gld_core.io.cameras import read_cameras
from gld_core.synthetic.render import Room, render_views
from tests.conftest import eventually, settle, wait_for_page

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "workflows" / "GLD cameras placed by hand.json"
VECTORS = ROOT / "tests/core/data/paths.json"
EDITOR = "document.querySelector('.gld-host').editor"

# A room with exact depth in front of the node, and behind it a file of the cameras that come out.
ROOM = """values => {
    app.graph.clear()
    // A new node of the same number would show what the last one left.
    app.nodeOutputs = {}
    const add = (type, x) => {
        const node = LiteGraph.createNode(type)
        node.pos = [x, 150]
        app.graph.add(node)
        return node
    }
    const room = add('TestRoom', 0), place = add('GLDPlaceCameras', 380)
    for (const widget of room.widgets) if (widget.name in values) widget.value = values[widget.name]
    room.connect(0, place, place.inputs.findIndex(input => input.name === 'geometry'))
    room.connect(1, place, place.inputs.findIndex(input => input.name === 'cameras'))
    if (values.path) place.widgets.find(widget => widget.name === 'path').value = values.path
}"""
SAVE = """() => {
    const save = LiteGraph.createNode('GLDSaveCameras'), place = app.graph.nodes.find(n => n.type === 'GLDPlaceCameras')
    save.pos = [1500, -250]
    app.graph.add(save)
    place.connect(0, save, 0)
    save.widgets.find(widget => widget.name === 'filename_prefix').value = 'placed/path'
}"""
PATH = "app.graph.nodes.find(node => node.type === 'GLDPlaceCameras').widgets.find(w => w.name === 'path').value"
SHOWN = f"{EDITOR}.state.layout.views()"


def small_template(seed: int) -> dict:
    """The template in small, with a seed of its own: ComfyUI keeps what it has run."""
    graph = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        values = node.get("widgets_values")
        if node["type"] in ("GLDLoadScene", "GLDEstimateCameras"):
            values[values.index(0)] = 84
        if node["type"] == "GLDSample":
            values[0], values[2] = seed, 1
    return graph


def show_scene(page):
    page.locator(".gld-cover button").click()
    page.wait_for_function("document.querySelector('.gld-views')?.dataset.scene")
    settle(page)


def open_room(page, views=2, height=56, width=84, seed=3, path=None):
    page.evaluate(
        ROOM, dict(seed=seed, views=views, height=height, width=width, sources=views, broken=False, path=path)
    )
    page.locator(".gld-editor").wait_for()
    show_scene(page)


def middle(page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def fly(page, key: str):
    """Hold a key until it has moved the camera by a tenth of the scene's depth."""
    start = page.evaluate(f"{EDITOR}.state.view.position")
    page.keyboard.down(key)
    page.wait_for_function(
        f"""start => {{
            const {{ view, space }} = {EDITOR}.state
            return Math.hypot(...view.position.map((value, axis) => value - start[axis])) > space.depth / 10
        }}""",
        arg=start,
    )
    page.keyboard.up(key)


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=4)
    page.mouse.move(*end, steps=4)
    page.mouse.up()


def find_handle(page) -> tuple[float, float]:
    """Where a handle of the gizmo is under the mouse: outwards from the chosen key."""
    for _ in range(5):
        settle(page)
        x, y = page.evaluate(
            f"""() => {{
                const {{ picture: {{ renderer, outsidePane }}, state }} = {EDITOR}
                const at = state.space.toScene(state.layout.keys[state.chosen].position).project(renderer.outside)
                const box = outsidePane.getBoundingClientRect()
                return [box.left + (at.x / 2 + 0.5) * box.width, box.top + (0.5 - at.y / 2) * box.height]
            }}"""
        )
        for reach in range(6, 160, 3):
            for dx, dy in ((1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7)):
                page.mouse.move(x + reach * dx, y + reach * dy)
                if page.evaluate(f"{EDITOR}.picture.outside.gizmo.axis"):
                    return x + reach * dx, y + reach * dy
    raise AssertionError("no handle of the gizmo is under the mouse anywhere")


def as_cameras(views: list[dict]) -> torch.Tensor:
    """(V, 3, 4) OpenCV camera-to-world of what the page shows."""
    from scipy.spatial.transform import Rotation

    turns = Rotation.from_quat([view["rotation"] for view in views]).as_matrix()
    return torch.from_numpy(np.concatenate([turns, np.array([view["position"] for view in views])[..., None]], 2))


def run_until(page, server, pattern: str, more: int, seconds: int = 600):
    """Press Run, and wait until the output folder has so many more files."""
    wanted = len(list((server.base / "output").glob(pattern))) + more
    page.get_by_text("Run", exact=True).first.click()
    for _ in range(2 * seconds):
        if len(list((server.base / "output").glob(pattern))) >= wanted:
            return
        page.wait_for_timeout(500)
    raise AssertionError(f"no new {pattern} after {seconds} s")


def newest_file(server) -> Cameras:
    files = sorted((server.base / "output/placed").glob("*.json"), key=lambda path: path.stat().st_mtime)
    return read_cameras(files[-1])[0]


@pytest.mark.parametrize("nodes", ["classic", "vue"])
@pytest.mark.parametrize("host", ["server", "newest_server"])
def test_a_path_is_placed_by_hand_saved_opened_again_and_run(request, open_page, host, nodes):
    server = request.getfixturevalue(host)
    page, errors = open_page(server.url), []
    page.on("pageerror", lambda error: errors.append(error))
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes == "vue")
    page.evaluate("data => app.loadGraphData(data)", small_template(len(nodes)))
    page.evaluate(SAVE)
    page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [-170, 290]; app.canvas.draw(true, true) }")
    run_until(page, server, "GLD/placed_*.png", 8)
    page.wait_for_function("document.querySelector('.gld-views')?.dataset.scene")

    page.locator("[data-action=more]").click()
    page.get_by_role("menuitem", name="Clear the path").click()
    page.mouse.click(*middle(page, ".gld-through"))
    for key in "dwe":
        fly(page, key)
        page.keyboard.press("k")
    x, y = middle(page, ".gld-through")
    drag(page, (x, y), (x + 30, y + 8))
    keys = page.evaluate(PATH)["keys"]
    assert len(keys) == 3 and len({tuple(key["position"]) for key in keys}) == 3

    page.keyboard.press("]")
    page.keyboard.press("r")
    start = find_handle(page)
    drag(page, start, (start[0] + 5, start[1] + 40))
    turned = page.evaluate(PATH)
    changed = [key["rotation"] != old["rotation"] for key, old in zip(turned["keys"], keys, strict=True)]
    assert changed == [True, False, False] and turned["keys"][0]["position"] == keys[0]["position"]

    page.keyboard.press("l")
    pinned = page.evaluate(PATH)
    assert pinned["look_at"] is not None
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert page.evaluate(PATH)["keys"][0]["rotation"] == keys[0]["rotation"]
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+y")
    assert page.evaluate(PATH) == pinned
    page.keyboard.press("o")
    path, shown = page.evaluate(PATH), page.evaluate(SHOWN)
    assert path["loop"] is True and len(shown) == path["views"]
    page.screenshot(path=server.base / f"editor_{nodes}.png")

    saved = page.evaluate("app.graph.serialize()")
    page.reload()
    wait_for_page(page)
    page.evaluate("app.graph.clear()")
    page.evaluate("data => app.loadGraphData(data)", saved)
    eventually(page, PATH, path)
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    run_until(page, server, "placed/*.json", 1)
    found = newest_file(server)
    assert torch.allclose(found.c2w[1:, :3].double(), as_cameras(shown), atol=1e-5)
    lenses = torch.tensor([[view["lens"]["fx"], view["lens"]["fy"]] for view in shown])
    assert torch.allclose(torch.stack([found.K[1:, 0, 0], found.K[1:, 1, 1]], 1), lenses, rtol=1e-5)

    save = next(name for name, node in prompt.items() if node["class_type"] == "GLDSaveCameras")
    prompt[save]["inputs"]["filename_prefix"] = "placed/api"
    assert server.run(prompt).error is None
    assert torch.equal(newest_file(server).c2w, found.c2w)
    assert errors == []
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    page.close()


def test_the_curve_in_the_page_is_the_curve_of_the_node(page):
    kept = json.loads(VECTORS.read_text(encoding="utf-8"))
    found = page.evaluate(
        """async ({ stage, paths }) => {
            const { Layout } = await import('/extensions/gld/editor/path.mjs')
            return paths.map(({ path }) => {
                const turned = path.keys.map(key => {
                    const length = Math.hypot(...key.rotation)
                    return { ...key, rotation: key.rotation.map(value => value / length) }
                })
                return new Layout({ ...path, keys: turned }, stage).views()
            })
        }""",
        kept,
    )
    for views, entry in zip(found, kept["paths"], strict=True):
        expected = torch.tensor([camera["c2w"] for camera in entry["cameras"]]).double()
        assert torch.allclose(as_cameras(views), expected, atol=1e-6)
        lens = [[view["lens"]["fx"], view["lens"]["fy"]] for view in views]
        np.testing.assert_allclose(lens, [[camera["fx"], camera["fy"]] for camera in entry["cameras"]], rtol=1e-6)


@pytest.fixture(scope="module")
def page(open_page):
    return open_page()


def test_three_js_comes_with_the_first_such_node_and_not_before(server, open_page):
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    wait_for_page(page)
    assert not [url for url in asked if "/lib/" in url or "/editor/" in url]
    page.evaluate("app.graph.clear()")
    page.evaluate("app.graph.add(LiteGraph.createNode('GLDPlaceCameras'))")
    page.locator(".gld-editor").wait_for()
    assert [url for url in asked if url.endswith("/lib/three.core.mjs")]
    page.close()


def test_the_view_through_the_camera_is_what_a_ray_cast_view_has(page):
    """Colour and depth where it draws a surface, and the share that no source has seen, against the room itself."""
    seed, views, height, width = 5, 4, 168, 252
    path = {
        "version": 1,
        "keys": [],
        "views": 3,
    }
    open_room(page, views, height, width, seed, path)
    sources = page.evaluate(
        f"{EDITOR}.state.scene.sources.map(({{ position, rotation, K }}) => ({{ position, rotation, K }}))"
    )
    eyes, K4 = as_cameras(sources), sources[0]["K"]
    K = np.array([[K4[0], 0, K4[2]], [0, K4[1], K4[3]], [0, 0, 1]])
    offsets = [(0.15, 0, 0.1), (-0.25, -0.1, 0.3), (0.1, 0.1, -0.2), (0.4, 0, 0)]
    poses = np.tile(np.eye(4), (len(offsets), 1, 1))
    for number, offset in enumerate(offsets):
        poses[number, :3] = eyes[number % views]
        poses[number, :3, 3] += poses[number, :3, :3] @ np.array(offset)
    room = Room(np.random.default_rng(seed))
    images, depths, _ = render_views(room, poses, K, height, width)
    source_depths = render_views(
        room, np.concatenate([eyes, np.tile([[[0, 0, 0, 1.0]]], (views, 1, 1))], 1), K, height, width, 1
    )[1]
    from scipy.spatial.transform import Rotation

    for number, pose in enumerate(poses):
        view = {"position": pose[:3, 3].tolist(), "rotation": Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()}
        color, depth, share = page.evaluate(
            f"""view => {{
                const {{ picture: {{ renderer }}, state }} = {EDITOR}
                const whole = {{ ...view, lens: state.stage.lens }}
                const color = renderer.picture('color', whole, state.space, {width}).pixels
                const depth = renderer.picture('depth', whole, state.space, {width}).pixels
                return [[...color], [...depth].filter((_, i) => i % 4 === 0).map(z => z * state.scene.depth),
                    renderer.unseenShare(whole, state.space)]
            }}""",
            view,
        )
        color = torch.tensor(color).view(height, width, 4).flip(0)
        depth = torch.tensor(depth).view(height, width).flip(0)
        drawn = color[..., 3] > 0
        off = (color[..., :3] / 255 - images[number].movedim(0, -1)).abs().mean(-1)[drawn]
        away = (depth / depths[number] - 1).abs()[drawn]
        exact = 1 - seen(source_depths, eyes, K, depths[number], pose).float().mean().item()
        print(
            f"view {number}: colour off by {off.median():.4f} (median), {off.mean():.4f} (mean); depth by "
            f"{away.median():.5f}, within 1 % on {(away < 0.01).float().mean():.1%}; "
            f"unseen {share:.1%}, exactly {exact:.1%}"
        )
        assert off.median() < 0.02 and off.mean() < 0.05
        assert away.median() < 0.002 and (away < 0.01).float().mean() > 0.95
        assert abs(share - exact) < 0.03


def seen(depths, eyes, K, depth, pose) -> torch.Tensor:
    """(H, W) bool: whether the point of a view's pixel is what a source has in its place."""
    H, W = depth.shape
    K, pose = torch.from_numpy(K), torch.from_numpy(pose)
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    rays = torch.stack([u, v, torch.ones(H, W)], -1).double() @ torch.linalg.inv(K).T
    xyz = depth[..., None] * rays @ pose[:3, :3].T + pose[:3, 3]
    found = torch.zeros(H, W, dtype=torch.bool)
    for source, eye in zip(depths, eyes, strict=True):
        local = (xyz - eye[:, 3]) @ eye[:, :3]
        x, y = ((local @ K.T)[..., :2] / local[..., 2:]).unbind(-1)
        inside = (local[..., 2] > 0) & (x >= 0) & (x < W) & (y >= 0) & (y < H)
        there = source[y.long().clamp(0, H - 1), x.long().clamp(0, W - 1)]
        found |= inside & ((local[..., 2] / there - 1).abs() < 0.02)
    return found


def test_the_pages_own_keys_do_nothing_while_one_flies(page):
    open_room(page)
    page.mouse.click(*middle(page, ".gld-through"))
    for key in "wrqnmasd":
        page.keyboard.press(key)
        settle(page)
    assert not page.evaluate("app.extensionManager.sidebarTab.activeSidebarTabId")
    page.keyboard.press("k")
    assert len(page.evaluate(PATH)["keys"]) == 1
    place = "app.graph.nodes.find(n => n.type === 'TestRoom')"
    page.keyboard.press("Control+z")
    eventually(page, f"{PATH}.keys", [])
    settle(page)
    assert page.evaluate(f"{place}.widgets.find(w => w.name === 'width').value") == 84


def test_a_motion_becomes_keys_and_a_file_brings_them_back(page):
    open_room(page)
    page.locator("[data-action=motion]").click()
    page.get_by_text("arc", exact=True).click()
    page.locator(".gld-menu .gld-primary").click()
    page.wait_for_function(f"{PATH}.keys.length === 3")
    before = page.evaluate(SHOWN)
    for name in ("Export the path", "Export for nerfstudio"):
        page.locator("[data-action=more]").click()
        with page.expect_download() as handed:
            page.get_by_role("menuitem", name=name).click()
        page.locator("[data-action=more]").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("menuitem", name="Import").click()
        page.evaluate(f"{EDITOR}.state.change({{ keys: [] }})")
        chooser.value.set_files(handed.value.path())
        page.wait_for_function(f"{PATH}.keys.length === 3")
        assert torch.allclose(as_cameras(page.evaluate(SHOWN)), as_cameras(before), atol=1e-5)


def test_numbers_set_the_chosen_key_and_the_list_chooses_it(page):
    keys = [{"position": [x, 3, 1.4], "rotation": [-0.5, 0.5, -0.5, 0.5]} for x in (1, 2, 3)]
    open_room(page, path={"version": 1, "keys": keys, "views": 9})
    page.locator(".gld-keys-list li").nth(1).click()
    field = page.locator(".gld-own .gld-number input").first
    field.fill("2.25")
    field.press("Enter")
    assert [key["position"][0] for key in page.evaluate(PATH)["keys"]] == [1, 2.25, 3]
    page.locator(".gld-own [data-action=up]").click()
    assert [key["position"][0] for key in page.evaluate(PATH)["keys"]] == [2.25, 1, 3]
    page.locator(".gld-own [data-action=copy]").click()
    page.locator(".gld-own [data-action=remove]").click()
    assert [key["position"][0] for key in page.evaluate(PATH)["keys"]] == [2.25, 1, 3]


def test_the_timeline_scrubs_and_moves_a_key_in_time(page):
    keys = [{"position": [x, 3, 1.4], "rotation": [-0.5, 0.5, -0.5, 0.5], "views": 6} for x in (1, 2, 3)]
    open_room(page, path={"version": 1, "keys": keys, "views": None})

    def place(view: float, height: float) -> tuple[float, float]:
        x = page.evaluate(f"{EDITOR}.timeline.x({view}, {EDITOR}.timeline.canvas.clientWidth)")
        box = page.locator(".gld-track").bounding_box()
        scale = box["width"] / page.evaluate(f"{EDITOR}.timeline.canvas.clientWidth")
        return box["x"] + x * scale, box["y"] + height * scale

    page.mouse.click(*place(9, 40))
    assert page.evaluate(f"{EDITOR}.state.time") == pytest.approx(9, abs=0.2)
    drag(page, place(6, 10), place(8, 10))
    assert [key["views"] for key in page.evaluate(PATH)["keys"]][:2] == [8, 4]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{EDITOR}.state.time") == 1
    page.keyboard.press(" ")
    page.wait_for_function(f"{EDITOR}.state.time > 3")
    page.keyboard.press(" ")
    assert not page.evaluate(f"{EDITOR}.timeline.playing")


def test_a_draft_makes_one_view_and_nothing_else(page, server):
    page.evaluate("app.nodeOutputs = {}")
    page.evaluate("data => app.loadGraphData(data)", small_template(1))
    page.locator(".gld-editor").wait_for()
    show_scene(page)
    before = set((server.base / "output").rglob("*.png"))
    page.mouse.click(*middle(page, ".gld-track"))
    page.keyboard.press("t")
    picture = page.locator(".gld-draft img")
    picture.wait_for()
    page.wait_for_function("document.querySelector('.gld-draft img').naturalWidth > 0")
    assert page.evaluate("document.querySelector('.gld-draft img').naturalWidth") == 84
    assert set((server.base / "output").rglob("*.png")) == before


def test_what_is_no_path_stays_as_it_is_for_the_server_to_refuse(page):
    page.evaluate(ROOM, {"path": "{broken"})
    page.locator(".gld-editor").wait_for()
    assert page.evaluate(PATH) == "{broken" and page.locator(".gld-keys-list .gld-none").count() == 1


def test_the_pages_own_undo_leaves_the_editor_in_its_node(open_page):
    """With Vue nodes too, which keep the element of the node that undo has taken away."""
    page = open_page()
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    page.evaluate("data => app.loadGraphData(data)", small_template(2))
    page.locator(".gld-editor").wait_for()
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    page.evaluate(f"() => {{ app.graph.nodes[0].pos = [-90, 10]; {tracker}.captureCanvasState() }}")
    page.evaluate(f"() => {tracker}.undo()")
    page.wait_for_function(
        """() => {
            const node = app.graph.nodes.find(node => node.type === 'GLDPlaceCameras')
            const { element } = node.widgets.find(widget => widget.name === 'path')
            return element.isConnected && element.editor
        }"""
    )
    page.evaluate("app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
    page.close()


def test_the_editor_speaks_the_users_language(open_page):
    texts = json.loads((ROOT / "locales/ja/main.json").read_text(encoding="utf-8"))["gldEditor"]
    page = open_page(locale="ja-JP")
    page.evaluate(ROOM, {})
    page.locator(".gld-editor").wait_for()
    assert page.locator(".gld-cover button").inner_text() == texts["showScene"]
    page.close()


def test_a_path_for_other_sources_is_kept_by_a_press(page, server):
    path = {"version": 1, "keys": [{"position": [2, 3, 1], "rotation": [0, 0, 0, 1]}], "views": 2}
    elsewhere = [{"position": [9, 9, 9], "rotation": [0, 0, 0, 1]}] * 2
    open_room(page, path={**path, "sources": elsewhere})
    page.locator(".gld-notice button").click()
    assert page.evaluate(PATH)["sources"][0]["position"] != [9, 9, 9]
    page.keyboard.press("Escape")


def test_without_webgl_a_sentence_says_so_and_the_numbers_work(open_page, server):
    page = open_page()
    page.evaluate(
        """() => {
            const original = HTMLCanvasElement.prototype.getContext
            HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
                return kind.startsWith('webgl') ? null : original.call(this, kind, ...rest)
            }
        }"""
    )
    page.evaluate(
        ROOM, {"path": {"version": 1, "keys": [{"position": [0, 0, 0], "rotation": [0, 0, 0, 1]}], "views": 1}}
    )
    page.locator(".gld-keys-list li").first.click()
    assert "no WebGL" in page.locator(".gld-message").inner_text()
    field = page.locator(".gld-own .gld-number input").first
    field.fill("1.5")
    field.press("Enter")
    assert page.evaluate(PATH)["keys"][0]["position"] == [1.5, 0, 0]
    page.close()


def test_fifty_runs_leave_the_page_no_larger(open_page, server):
    page = open_page()
    open_room(page, path={"version": 1, "keys": [], "views": 3})
    client = page.context.new_cdp_session(page)

    def alive(example: str) -> int:
        """How many objects of the class of one there are, garbage left out."""
        named = {"objectGroup": "counted"}
        found = client.send("Runtime.evaluate", {"expression": f"Object.getPrototypeOf({example})", **named})
        found = client.send("Runtime.queryObjects", {"prototypeObjectId": found["result"]["objectId"], **named})
        length = {"functionDeclaration": "function () { return this.length }", "returnByValue": True}
        count = client.send("Runtime.callFunctionOn", {"objectId": found["objects"]["objectId"], **length})
        client.send("Runtime.releaseObjectGroup", named)
        return count["result"]["value"]

    def used() -> tuple[float, dict, list[int]]:
        client.send("HeapProfiler.collectGarbage")
        memory = page.evaluate(f"{EDITOR}.picture.renderer.gl.info.memory")
        kept = [
            alive(f"{EDITOR}.{part}") for part in ("picture.renderer.surfaces", "picture.pictures[0]", "state.layout")
        ]
        return client.send("Runtime.getHeapUsage")["usedSize"] / 2**20, memory, kept

    sizes = []
    for run in range(51):
        page.evaluate("delete document.querySelector('.gld-views').dataset.scene")
        page.evaluate(
            f"app.graph.nodes.find(n => n.type === 'TestRoom').widgets.find(w => w.name === 'seed').value = {run}"
        )
        page.evaluate(f"{EDITOR}.hooks.run()")
        page.wait_for_function("document.querySelector('.gld-views').dataset.scene")
        settle(page)
        if run in (0, 10, 50):
            sizes.append(used())
            print(
                f"after {run} runs: {sizes[-1][0]:.1f} MiB, {sizes[-1][1]}, {sizes[-1][2]} scenes, pictures and paths"
            )
    # A room may have a source with single points beside its surface, or not.
    assert sizes[2][1]["geometries"] <= sizes[1][1]["geometries"] + 4
    assert sizes[2][1]["textures"] <= sizes[1][1]["textures"]
    assert sizes[2][2] == sizes[1][2]
    # Beside them every run leaves 0.1 MiB.
    assert sizes[2][0] - sizes[1][0] < 8
    page.close()
