"""The HTML page, in headless Chromium and without a network."""

import json
import os
import re
import shutil

import pytest
import torch
from torch import nn

from hypergen.graph import ComputationalGraph, OpNode, trace
from hypergen.graph.computational_graph import edge_tensor

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --window-size=1200,900""".split()

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        message = "the page is tested in Chromium: apt-get install chromium chromium-driver"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Page:
    """The page as a reader meets it: what is seen, pressed and typed."""

    def __init__(self, browser):
        self.browser = browser

    def ask(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def wait(self):
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def click(self, selector, number=0):
        from selenium.webdriver.common.action_chains import ActionChains

        self.wait()
        elements = self.browser.find_elements("css selector", selector)
        ActionChains(self.browser).move_to_element(elements[number]).click().perform()
        self.wait()

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()
        self.wait()

    def search(self, text):
        self.ask("document.getElementById('query').value = ''")
        self.click("#query")
        self.press(text)

    def texts(self, selector):
        return [element.text for element in self.browser.find_elements("css selector", selector)]

    @property
    def labels(self):
        script = "return [...document.querySelectorAll('.node')].map((node) => node.getAttribute('aria-label'))"
        return self.ask(script)

    @property
    def details(self):
        return self.browser.find_element("id", "panel").text


@pytest.fixture
def show(browser, tmp_path):
    def open_graph(graph, **options):
        graph.draw(tmp_path / "graph.html", **options)
        browser.get_log("browser")
        browser.get((tmp_path / "graph.html").as_uri())
        page = Page(browser)
        page.wait()
        return page

    yield open_graph
    assert browser.get_log("browser") == []  # no errors in the console


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Linear(4, 8), nn.ModuleList(Block() for _ in range(6))
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture(scope="module")
def graph():
    return trace(Net(), torch.zeros(1, 4))


def test_nodes_and_folded_blocks_are_shown(show, graph):
    page = show(graph)
    assert len(page.labels) == 2 + 5  # input, stem, and one of six blocks
    assert "× 6" in page.texts(".frame text") and "blocks.0 … 5" in page.texts(".frame text")
    assert {"weight 16×8, bias 16", "1×16"} <= set(page.texts(".node text"))
    assert page.texts("#legend span") == ["input", "norm", "weights", "arithmetic", "activation"]


def test_nothing_is_loaded_from_elsewhere(show, graph, browser, tmp_path):
    browser.get_log("performance")
    show(graph)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked == [(tmp_path / "graph.html").as_uri()]
    text = (tmp_path / "graph.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=|@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)""", text)


def test_blocks_unfold_and_fold(show, graph):
    page = show(graph)
    page.click(".toggle")
    assert page.ask("return itemOf.size") == len(graph.nodes) == 32
    # Nothing lies on anything else, and lines run through no node.
    assert page.ask("""
        const apart = (a, b) =>
          a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
        const inner = (n) => ({ x: n.x + 1, y: n.y + 1, width: n.width - 2, height: n.height - 2 });
        const straight = ([x, y], [u, v]) =>
          ({ x: Math.min(x, u), y: Math.min(y, v), width: Math.abs(x - u), height: Math.abs(y - v) });
        const pieces = items.filter((item) => item.kind === "wire")
          .flatMap(({ corners }) => corners.slice(1).map((corner, i) => straight(corners[i], corner)));
        const shown = items.filter((item) => item.kind === "node");
        return shown.every((a, i) =>
          shown.slice(i + 1).every((b) => apart(a, b)) && pieces.every((piece) => apart(inner(a), piece)));
    """)
    page.click("#none")
    assert len(page.labels) == 7


def test_wires_join_the_repetitions(show, graph):
    page = show(graph)
    page.click("#all")
    # From the output, upwards along what touches, one comes to the input through all repetitions.
    reached = page.ask("""
        const wires = items.filter((item) => item.kind === "wire");
        const near = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) < 1;
        const within = (value, start, size) => value > start - 1 && value < start + size + 1;
        const on = (node, [x, y]) => within(x, node.x, node.width) && within(y, node.y, node.height);
        const reached = new Set([31]), points = [];
        const leads = (end) => [...reached].some((n) => on(itemOf.get(n), end)) || points.some((p) => near(p, end));
        for (let changed = true; changed;) {
          changed = false;
          for (const wire of wires) {
            if (wire.used || !leads(wire.corners.at(-1))) continue;
            wire.used = changed = true;
            points.push(wire.corners[0]);
            for (const [n, item] of itemOf) if (on(item, wire.corners[0])) reached.add(n);
          }
        }
        return reached.size;
    """)
    assert reached == 32


def test_search_highlights_and_goes_to_matches(show, graph):
    from selenium.webdriver.common.keys import Keys

    page = show(graph)
    page.search("layer_norm")
    assert page.texts("#count") == ["1 of 6"]
    assert page.ask("return document.querySelectorAll('.node.hit').length") == 1
    assert page.ask("return document.querySelectorAll('.frame.hit').length") == 1  # five more are inside
    page.press(Keys.ENTER, Keys.ENTER)
    assert page.texts("#count") == ["2 of 6"]
    assert "blocks.1.norm" in page.details
    corner, box = page.ask(
        "const node = document.querySelector('.pick').getBoundingClientRect(), v = view.getBoundingClientRect();"
        "return [[v.left, v.top, v.right, v.bottom], [node.left, node.top, node.right, node.bottom]]"
    )
    assert corner[0] < box[0] and corner[1] < box[1] and box[2] < corner[2] and box[3] < corner[3]  # it is in view
    page.search("blocks.4.down.weight")  # a parameter
    assert page.texts("#count") == ["1 of 1"]
    page.search("no such thing")
    assert page.texts("#count") == ["no match"]
    assert page.ask("return document.querySelectorAll('.hit').length") == 0


def test_details_of_a_node(show, graph):
    page = show(graph)
    page.click(".node", 3)
    for words in ("linear", "blocks.0.up", "1×16", "blocks.0.up.weight: 16×8 (128 values)", "1 of 6 (blocks.0)"):
        assert words in page.details
    page.click("#panel li button")  # its input
    assert "layer_norm" in page.details and "normalized_shape" in page.details
    page.click("#panel .close")
    assert page.details == ""
    page.click("#help")
    assert "spare" in page.details  # read by no operation


def test_keyboard(show, graph):
    from selenium.webdriver.common.keys import Keys

    page = show(graph)
    page.press("/", "relu", Keys.ENTER)
    assert "relu" in page.details
    page.press(Keys.ESCAPE)
    page.ask("view.focus()")
    page.press(Keys.TAB)
    while not page.ask("return document.activeElement.matches('.toggle')"):  # past the nodes, to the block
        page.press(Keys.TAB)
    page.press(Keys.ENTER)
    assert page.ask("return itemOf.size") == 32
    assert page.ask("return document.activeElement.getAttribute('aria-expanded')") == "true"
    page.press("f")
    assert page.ask("return itemOf.size") == 7
    before = page.ask("return [scale, shiftX, shiftY]")
    page.press("+", Keys.ARROW_DOWN)
    after = page.ask("return [scale, shiftX, shiftY]")
    assert after[0] == pytest.approx(1.25 * before[0]) and after[2] < before[2]
    page.press("0", "n", "n")
    assert "stem" in page.details


def test_wheel_and_drag(show, graph):
    from selenium.webdriver.common.action_chains import ActionChains

    page = show(graph)
    view = page.browser.find_element("id", "view")
    before = page.ask("return [shiftX, shiftY]")
    drag = ActionChains(page.browser).move_to_element_with_offset(view, -300, 100).click_and_hold()
    drag.move_by_offset(50, 40).move_by_offset(20, 10).release().perform()
    after = page.ask("return [shiftX, shiftY]")
    assert after == pytest.approx([before[0] + 70, before[1] + 50])
    wheel = "view.dispatchEvent(new WheelEvent('wheel', {deltaY: -120, ctrlKey: arguments[0], cancelable: true}))"
    page.ask(wheel, False)
    assert page.ask("return shiftY") == pytest.approx(after[1] + 120)
    scale = page.ask("return scale")
    page.ask(wheel, True)
    assert page.ask("return scale") > scale


def test_dark_and_light(show, graph, browser):
    colours = {}
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        page = show(graph)
        script = (
            "const style = getComputedStyle(arguments[0]);"
            "return [style.backgroundColor, style.color].map((colour) => colour.match(/\\d+/g).map(Number))"
        )
        colours[scheme] = page.ask(script, browser.find_element("tag name", "body"))
    assert max(colours["dark"][0]) < 60 < 200 < min(colours["dark"][1])
    assert max(colours["light"][1]) < 60 < 200 < min(colours["light"][0])


def test_five_thousand_nodes(show):
    count = 5000
    ops = ("linear", "relu", "add", "layer_norm")
    nodes = [OpNode(ops[i % 4 if i % 7 else 2], f"layer{i}", {}, (1, i)) for i in range(count)]
    edges = sorted({(max(i - 1 - 3 * skip * (i % 7 == 0), 0), i) for i in range(1, count) for skip in (0, 1)})
    page = show(ComputationalGraph(tuple(nodes), edge_tensor(edges), {}))
    assert page.ask("return itemOf.size") == count
    assert len(page.labels) < 200  # only what is seen is built
    page.search("layer4321")
    assert any("layer4321" in label for label in page.labels)
    page.click("#fit")
    assert page.ask("return document.querySelectorAll('.node').length") > 100


def test_names_are_text_and_nothing_else(show):
    name = "</script><script>window.broken = 1</script><b>&amp;"
    page = show(ComputationalGraph((OpNode("input", name, {}, (1,)),), edge_tensor([]), {}))
    page.click(".node")
    assert name in page.details
    assert page.ask("return window.broken ?? null") is None
