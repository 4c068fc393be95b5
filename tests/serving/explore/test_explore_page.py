"""The page in headless Chromium, on a real index of the small shop: what is picked is shown."""

import shutil
import threading
import urllib.parse

import numpy as np
import pytest
import scipy.spatial.distance

from serving import server
from serving.explore import item_map, page
from serving.explore.answers import Server
from serving.explore.endpoint import Endpoint
from serving.explore.shop import Shop

K = 7
SECONDS = 60_000  # milliseconds to wait for anything, as Playwright counts
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def chromium():
    """A browser of this machine; none is downloaded."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.skip(f"no browser is installed: looked for {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shop(shop_dataset):
    return Shop(shop_dataset)


@pytest.fixture(scope="module")
def answers(shop_models):
    handle = server.serve(server.discover(model_folder=shop_models), port=0)
    endpoint = Endpoint.connect(handle.address)
    yield Server(retrieval=endpoint, encoders=endpoint)
    endpoint.channel.close()
    handle.stop()


def serve_page(shop, answers):
    """Starts a web server of the page on a free port."""

    def make_map():
        items = shop.catalogue.first(200)
        return item_map.ItemMap(items, item_map.project(answers.encode_items(items)))

    app = page.make_app(shop=shop, server=answers, atlas=item_map.Atlas(make_map), k=K)
    web = page.listen(app, host="127.0.0.1", port=0)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    return web


@pytest.fixture(scope="module")
def address(shop, answers):
    web = serve_page(shop, answers)
    yield f"http://127.0.0.1:{web.port}/"
    web.shutdown()


@pytest.fixture
def tab(chromium):
    """A tab that has seen no error and asked no other machine for anything, at the end too."""
    tab = chromium.new_page(viewport={"width": 1500, "height": 1000})
    tab.set_default_timeout(SECONDS)
    errors, asked = [], []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    tab.on("request", lambda request: asked.append(urllib.parse.urlsplit(request.url)))
    yield tab
    tab.close()
    assert errors == []
    assert {url.hostname for url in asked if url.scheme.startswith("http")} == {"127.0.0.1"}
    assert len(asked) > 5


def titles(tab, selector):
    """The titles of the item buttons there, without their ids."""
    return tab.locator(f"{selector} button.item").evaluate_all(
        "buttons => buttons.map(button => button.firstChild.textContent)"
    )


def marked(tab, name):
    """How many points the map has under this name of its legend."""
    return tab.evaluate(
        """name => document.querySelector('#map .js-plotly-plot')
                 .data.find(trace => trace.name === name).x.length""",
        name,
    )


def alone(tab):
    """The point of the map whose nearest other is farthest: neighbours and marks overlap."""
    boxes = tab.locator("#map .points path").evaluate_all(
        "points => points.map(p => p.getBoundingClientRect()).map(box => [box.x, box.y])"
    )
    apart = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(boxes))
    np.fill_diagonal(apart, np.inf)
    return int(apart.min(axis=1).argmax())


def test_pick_a_user_and_an_item(tab, address, shop, answers):
    user = shop.suggested[0]
    history = shop.history(user)
    recommended = answers.recommend(history, k=K, exclude_seen=True)
    known = shop.catalogue.by_id(r.item_id for r in recommended)
    bought = {event.item.item_id for event in history.events}

    tab.goto(address)
    tab.get_by_label("User id").fill(user)
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".recommended table")

    # The history, the latest first.
    assert titles(tab, ".history") == [event.item.title for event in reversed(history.events)]
    assert f"{len(history.events)} events" in tab.inner_text(".history h3")
    # What all interests recommend together is the server's answer, and nothing of it is known.
    assert titles(tab, ".recommended") == [known[r.item_id].title for r in recommended]
    assert not bought & set(known)
    # Each interest alone: three of them, and together they bring the list.
    assert tab.locator(".card").count() == 3
    for number in range(3):
        assert len(titles(tab, f".card:nth-child({number + 1})")) == K
    brings = [
        int(t.split()[1]) for t in tab.locator(".card h4 > span:last-child").all_inner_texts()
    ]
    assert brings == [sum(r.interest == c for r in recommended) for c in range(3)]
    # The map has the shop's items, and marks.
    tab.wait_for_function("document.querySelectorAll('#map .points path').length >= 200")
    on_map = {item.item_id for item in shop.catalogue.first(200)}
    tab.wait_for_function("document.querySelector('#map-note').innerText.includes('bought')")
    assert marked(tab, "bought") == len(bought & on_map)
    assert marked(tab, "recommended") == len(set(known) & on_map)

    # A click on what is recommended shows its neighbours.
    tab.click(".recommended button.item >> nth=0")
    tab.wait_for_selector("#item-panel table")
    first = known[recommended[0].item_id]
    neighbours = answers.neighbours(first, k=K)
    near = shop.catalogue.by_id(one.item_id for one in neighbours)
    assert tab.inner_text("#item-panel h3").startswith(first.title)
    assert titles(tab, "#item-panel .near") == [near[n.item_id].title for n in neighbours]

    # The address has both, and brings the view back.
    chosen = urllib.parse.parse_qs(urllib.parse.urlsplit(tab.url).query)
    assert chosen == {"user": [user], "item": [first.item_id]}
    tab.reload()
    tab.wait_for_selector("#item-panel table")
    tab.wait_for_selector(".recommended table")
    assert tab.get_by_label("User id").input_value() == user


def test_find_an_item_by_its_title_with_the_keyboard(tab, address, shop):
    item = shop.catalogue.first(50)[-1]
    tab.goto(address)
    tab.get_by_label("Item", exact=True).fill(item.title.lower())
    tab.wait_for_selector(".matches button.item")
    assert item.title in titles(tab, ".matches")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#item-panel table")
    expected = shop.catalogue.search(item.title, 1)[0]
    assert tab.inner_text("#item-panel h3 span").startswith(expected.item_id)
    tab.wait_for_selector(".matches", state="detached")


def test_any_user_by_tab_and_enter(tab, address, shop):
    tab.goto(address)
    tab.get_by_label("User id").focus()
    for _ in range(2):  # past "Show"
        tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".recommended table")
    assert tab.get_by_label("User id").input_value() in shop.suggested


def test_what_was_bought_before_comes_back_when_wanted(tab, address, shop, answers):
    user = shop.suggested[0]
    answer = answers.recommend(shop.history(user), k=K, exclude_seen=False)
    known = shop.catalogue.by_id(r.item_id for r in answer)
    expected = [known[r.item_id].title for r in answer]

    tab.goto(f"{address}?user={user}")
    tab.wait_for_selector(".recommended table")
    assert titles(tab, ".recommended") != expected
    tab.get_by_label("without what the user bought before").uncheck()
    tab.wait_for_function(
        """titles => titles.join() === [...document.querySelectorAll('.recommended button.item')]
                       .map(button => button.firstChild.textContent).join()""",
        arg=expected,
    )


def test_a_point_of_the_map_is_an_item_whenever_it_is_clicked(tab, address):
    tab.goto(address)
    tab.wait_for_function("document.querySelectorAll('#map .points path').length >= 200")
    point = tab.locator("#map .points path").nth(alone(tab))
    point.scroll_into_view_if_needed()
    point.hover(force=True)
    label = tab.wait_for_selector("#map .hoverlayer .hovertext").text_content()

    def chosen():
        return tab.locator("#item-panel h3").evaluate("head => head.firstChild.textContent")

    tab.mouse.down()
    tab.mouse.up()
    tab.wait_for_selector("#item-panel table")
    first = chosen()
    assert label.startswith(first)
    other = titles(tab, ".near")[0]
    tab.click(".near button.item >> nth=0")
    tab.wait_for_selector(f"#item-panel h3:has-text({other!r})")
    assert chosen() != first
    tab.wait_for_function("document.querySelectorAll('#map .points path').length >= 200")
    point.hover(force=True)
    tab.wait_for_selector("#map .hoverlayer .hovertext")
    tab.mouse.down()
    tab.mouse.up()
    tab.wait_for_selector(f"#item-panel h3:has-text({first!r})")


def test_no_button_of_the_map_sends_it_away(tab, address):
    tab.goto(address)
    tab.wait_for_function("document.querySelectorAll('#map .points path').length >= 200")
    buttons = tab.locator("#map .modebar-btn")
    names = buttons.evaluate_all("buttons => buttons.map(b => b.getAttribute('data-title'))")
    assert names == ["Zoom in", "Zoom out", "Reset axes"]


@pytest.mark.parametrize(
    ("query", "panel", "words"),
    [
        ("?user=nobody", "#user-panel", "No user 'nobody' in the data set"),
        ("?item=nothing", "#item-panel", "No item 'nothing' in the data set"),
    ],
)
def test_who_or_what_is_unknown_is_said(tab, address, query, panel, words):
    tab.goto(address + query)
    alert = tab.wait_for_selector(f"{panel} [role=alert]")
    assert words in alert.inner_text()


def test_a_server_that_is_gone_is_said_in_every_panel(tab, shop):
    nowhere = Endpoint.connect("127.0.0.1:1")
    web = serve_page(shop, Server(retrieval=nowhere, encoders=nowhere, timeout=5))
    item = shop.catalogue.first(1)[0]
    tab.goto(f"http://127.0.0.1:{web.port}/?user={shop.suggested[0]}&item={item.item_id}")
    for panel in ("#user-panel", "#item-panel", "#map-error"):
        alert = tab.wait_for_selector(f"{panel} [role=alert]")
        assert "No server answers at 127.0.0.1:1" in alert.inner_text()
        assert "guim serve" in alert.inner_text()
    web.shutdown()
    nowhere.channel.close()
