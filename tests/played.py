"""Figures to play with, opened in a real browser: sliders move, and numbers are read off the page."""

import base64
import contextlib

PAGE = """<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>One figure</title>
<meta name="viewport" content="width=device-width"><body style="margin:0"><main>{}</main></body></html>"""


@contextlib.contextmanager
def opened(browser, figure, width=1400, scripts=True):
    """A page that holds the figure alone, with the network cut; nothing may go wrong on it while it is open."""
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, offline=True, java_script_enabled=scripts)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto("data:text/html;base64," + base64.b64encode(PAGE.format(figure.html).encode()).decode())
    yield page
    assert not wrong
    context.close()


def shown(page, figure, **setting):
    """The values on the page, by name, after its sliders were moved to these numbers; text where it is no number."""
    places = {slider.name: list(slider.stops).index(setting[slider.name]) for slider in figure.sliders
              if slider.name in setting}
    assert places.keys() == setting.keys()
    return page.evaluate("""places => {
      for (const [name, place] of Object.entries(places)) {
        const input = document.querySelector(`input[name=${name}]`);
        input.value = place;
        input.dispatchEvent(new Event("input"));
      }
      return Object.fromEntries([...document.querySelectorAll("data")].map(cell =>
        [cell.dataset.name, cell.value === "" || isNaN(cell.value) ? cell.value : +cell.value]));
    }""", places)
